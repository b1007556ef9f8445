"""Dropped tokens of a vision transformer: patches that no token attends to, as if they were not in the sequence.

The logarithm of a patch's mask is added to the attention logits for its key, in every block: exp(a + log m) = m exp(a).
A mask of 0 removes the token, 1 changes nothing. Where the network averages its patches at the end, the mask weighs the
average. The image itself stays as it is.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from mpx.perturbations.base import PerturbationContext, PreparedPerturbation

# Added to the mask before the logarithm, so that the gradient lives at 0; 1 stays exactly 1. Beside keys with logits lower
# by up to 29 a dropped token vanishes in 32 bits, and its share of the attention is still a number that 1/TINY restores.
TINY = 1e-20


def token_drop(images: Tensor, context: PerturbationContext) -> "TokenDrop":
    """Drop tokens of torchvision's and timm's VisionTransformer and of timm's Eva; one mask value for each patch."""
    networks = _transformers(context.classifier)
    if len(networks) != 1 or not _is_supported(networks[0]):
        raise ValueError(
            f"perturbation=token_drop drops no tokens of {context.classifier.name}: it supports torchvision's "
            "VisionTransformer, and timm's VisionTransformer and Eva that end in a class token or the average of patches"
        )
    return TokenDrop(images, networks[0])


def _transformers(classifier: nn.Module) -> list[nn.Module]:
    networks = [module for module in classifier.modules() if isinstance(module, VisionTransformer)]
    if networks:
        return list(networks)
    try:  # here, because timm takes a second to import
        from timm.models import eva, vision_transformer
    except ImportError:
        return []
    return [m for m in classifier.modules() if isinstance(m, (vision_transformer.VisionTransformer, eva.Eva))]


def _is_supported(network: Any) -> bool:
    if isinstance(network, VisionTransformer):
        return True
    takes_mask = all("attn_mask" in inspect.signature(block.forward).parameters for block in network.blocks)
    return takes_mask and network.attn_pool is None and network.global_pool in ("token", "avg")


class TokenDrop(PreparedPerturbation):
    """The patches (1,h,w) of a vision transformer."""

    def __init__(self, images: Tensor, network: Any):
        self.images = images
        self.network = network
        self.is_torchvision = isinstance(network, VisionTransformer)
        if self.is_torchvision:
            grid = [network.image_size // network.patch_size] * 2
            self.blocks = [m for m in network.encoder.modules() if isinstance(m, nn.MultiheadAttention)]
            self.prefix_tokens = 1  # tokens before the patches
            self.averages_patches = False
            self.averages_prefix = False
        else:
            patches = network.patch_embed
            grid = patches.dynamic_feat_size(images.shape[2:]) if network.dynamic_img_size else patches.grid_size
            self.blocks = network.blocks
            self.prefix_tokens = network.num_prefix_tokens
            self.averages_patches = network.global_pool == "avg"
            self.averages_prefix = getattr(network, "pool_include_prefix", False)  # foreign: timm added it later
        self.mask_shape = (1, *grid)

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        return self.images

    def network_inputs(self, sample: Tensor | None, mask: Tensor) -> tuple[Tensor, ...]:
        return (mask,)

    @contextmanager
    def patched_network(self, *inputs: Tensor) -> Iterator[None]:
        mask = F.pad(inputs[0].flatten(1), (self.prefix_tokens, 0), value=1.0)  # (B,N)
        bias = (mask + TINY).log()
        # a mask of floats also keeps MultiheadAttention from its fast path, which would ignore it
        attention_mask = {"key_padding_mask": bias} if self.is_torchvision else {"attn_mask": bias[:, None, None]}
        averaged = mask if self.averages_prefix else mask[:, self.prefix_tokens :]
        weights = mask * (averaged.shape[1] / averaged.sum(1, keepdim=True).clamp(min=1))

        def add_mask(module: nn.Module, arguments: tuple, keywords: dict) -> tuple[tuple, dict]:
            return arguments, keywords | attention_mask

        def weigh(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            return output * weights[..., None].to(output.dtype)

        with ExitStack() as hooks:
            for block in self.blocks:
                hooks.enter_context(block.register_forward_pre_hook(add_mask, with_kwargs=True))
            if self.averages_patches:
                hooks.enter_context(self.network.norm.register_forward_hook(weigh))
            yield

    def to_image(self, evidence: Tensor) -> Tensor:
        return F.interpolate(evidence, size=self.images.shape[2:], mode="nearest")
