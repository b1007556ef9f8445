"""Dropping tokens of a vision transformer: patches that no token attends to, as if they were not in the sequence.

The logarithm of a patch's mask is added to the attention logits for its key, in every block: exp(a + log m) = m exp(a), so 0
takes the token out and 1 changes nothing. Where the network averages its patches at the end, they are averaged with the mask
as weights. The picture itself stays as it is.
"""

import inspect
from contextlib import ExitStack, contextmanager

import torch.nn.functional as F
import torchvision.models
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

# added to the mask before the logarithm, so that the gradient lives at 0; 1 stays exactly 1. Beside keys with logits lower
# by up to 29 a dropped one is nothing in 32 bits, and its share of the attention is still a number that 1/TINY brings back
TINY = 1e-20


def token_drop(x: Tensor, classifier):
    """A site of (1,h,w) patches, for torchvision's and timm's VisionTransformer and for timm's Eva."""
    nets = [m for m in classifier.modules() if isinstance(m, (torchvision.models.VisionTransformer, VisionTransformer, Eva))]
    if len(nets) != 1 or not _fits(nets[0]):
        raise ValueError(
            f"perturbation=token_drop drops no tokens of {getattr(classifier, 'name', type(classifier).__name__)}: it knows "
            "torchvision's VisionTransformer, and timm's and Eva where they end in a class token or the average of patches"
        )
    return Tokens(x, nets[0])


def _fits(net: nn.Module) -> bool:
    if isinstance(net, torchvision.models.VisionTransformer):
        return True
    takes = all("attn_mask" in inspect.signature(block.forward).parameters for block in net.blocks)
    return takes and net.attn_pool is None and net.global_pool in ("token", "avg")


class Tokens:
    def __init__(self, photos: Tensor, net: nn.Module):
        self.photos, self.net = photos, net
        self.torchvision = isinstance(net, torchvision.models.VisionTransformer)
        if self.torchvision:
            grid, self.prefix, self.average = [net.image_size // net.patch_size] * 2, 1, False
            self.blocks = [m for m in net.encoder.modules() if isinstance(m, nn.MultiheadAttention)]
        else:
            patches = net.patch_embed
            grid = patches.dynamic_feat_size(photos.shape[2:]) if net.dynamic_img_size else patches.grid_size
            self.blocks, self.prefix, self.average = net.blocks, net.num_prefix_tokens, net.global_pool == "avg"
        self.shape = (1, *grid)

    def draw(self, rng) -> None:
        return None

    def show(self, drawn: None, mask: Tensor) -> tuple[Tensor, tuple]:
        return self.photos, (mask,)

    @contextmanager
    def inside(self, mask: Tensor):
        mask = F.pad(mask.flatten(1), (self.prefix, 0), value=1.0)  # (B,N)
        bias = (mask + TINY).log()
        # a mask of floats also keeps MultiheadAttention from its fast path, which would not know it
        more = {"key_padding_mask": bias} if self.torchvision else {"attn_mask": bias[:, None, None]}
        counted = mask if getattr(self.net, "pool_include_prefix", False) else mask[:, self.prefix :]
        weights = mask * (counted.shape[1] / counted.sum(1, keepdim=True).clamp(min=1))

        def told(module, given, named):
            return given, named | more

        def weighed(module, given, out):
            return out * weights[..., None].to(out.dtype)

        with ExitStack() as hooks:
            for block in self.blocks:
                hooks.enter_context(block.register_forward_pre_hook(told, with_kwargs=True))
            if self.average:
                hooks.enter_context(self.net.norm.register_forward_hook(weighed))
            yield

    def to_pixels(self, evidence: Tensor) -> Tensor:
        return F.interpolate(evidence, size=self.photos.shape[2:], mode="nearest")
