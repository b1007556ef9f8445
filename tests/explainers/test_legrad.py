"""LeGrad against attention that is written out, on networks of three libraries, and where there is no such attention."""

from functools import partial

import pytest
import torch
from explainers.scene import IMAGES, Checkers, explain, frozen, vit
from torch import Tensor, nn
from torch.nn import functional as F

from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.similarity import Similarity

TARGETS = torch.tensor([0, 1, 2])


class Written(nn.Module):
    """A transformer whose attention is matrix products; `attention` keeps each block's A, `depth` blocks run."""

    def __init__(self, fused: bool, blocks: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.fused, self.depth, self.attention = fused, blocks, []
        self.patches, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(Block(self) for _ in range(blocks))

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)
        self.attention.clear()
        for block in self.blocks[: self.depth]:
            tokens = block(tokens)
        return self.head(F.layer_norm(tokens, (8,))[:, 0])


class Block(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = [network]  # in a list: it is no child
        self.qkv, self.out, self.mlp = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in self.qkv(F.layer_norm(x, (8,))).chunk(3, 2))
        network = self.network[0]
        if network.fused:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            a = (q @ k.transpose(2, 3) / 2).softmax(3).detach().requires_grad_()
            network.attention.append(a)
            attended = a @ v
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x).relu()


@pytest.mark.parametrize("blocks", [None, 2])
def test_by_gradients_of_the_attention_itself(blocks):
    written, expected = Written(fused=False), torch.zeros(3, 1, 4, 4)
    for depth in (1, 2, 3)[-(blocks or 3) :]:
        written.depth = depth  # the head reads the tokens after this block
        logits = written(IMAGES).gather(1, TARGETS[:, None]).sum()
        gradient = torch.autograd.grad(logits, written.attention[-1])[0]
        expected += gradient.relu().mean((1, 2))[:, 1:].view(3, 1, 4, 4)
    ours = explain("legrad", frozen(Written(fused=True)), targets=TARGETS, blocks=blocks)
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, expected, atol=1e-7, rtol=1e-4)


class AsFunctions(nn.Module):
    """torchvision's transformer with the attention of nn.MultiheadAttention as scaled_dot_product_attention."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        for block in network.encoder.layers:
            block.self_attention.forward = partial(self.attend, block.self_attention)

    @staticmethod
    def attend(module: nn.MultiheadAttention, x: Tensor, *_, **__) -> tuple[Tensor, None]:
        heads = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, 2)
        q, k, v = (t.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for t in heads)
        return module.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None

    def forward(self, x):
        return self.network(x)


def test_torchs_module_of_attention_gives_what_its_function_gives():
    ours = explain("legrad", frozen(vit()), targets=TARGETS)
    assert ours.amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(explain("legrad", frozen(AsFunctions(vit())), targets=TARGETS), ours, atol=1e-7, rtol=1e-4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("transformers", "clip")]


@pytest.mark.parametrize("library", ["timm", *SLOW])
def test_networks_of_other_libraries(library):
    torch.manual_seed(0)
    task = CLASSIFICATION
    if library == "timm":
        timm = pytest.importorskip("timm")
        options = {"embed_dim": 16, "depth": 2, "num_heads": 2, "init_values": 1.0, "reg_tokens": 2}
        network = timm.models.VisionTransformer(32, 8, 3, 3, **options)
    else:
        hf = pytest.importorskip("transformers")
        options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        options |= {"image_size": 32, "patch_size": 8}
        network = hf.ViTForImageClassification(hf.ViTConfig(**options, num_labels=3))
        if library == "clip":
            network = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**options, projection_dim=8))
            task = Similarity(embeddings=torch.randn(3, 8))
    classifier = frozen(network).with_task(task)
    relevance = explain("legrad", classifier, targets=TARGETS)
    assert relevance.shape == (3, 1, 32, 32) and relevance.isfinite().all() and relevance.amax((1, 2, 3)).min() > 0
    assert not any("forward" in vars(module) for module in classifier.modules())


def windows(width: int = 6) -> nn.Module:
    """Attention within two halves of the tokens."""

    class Windows(nn.Module):
        def forward(self, x):
            halves = x.flatten(2).transpose(1, 2).unflatten(1, (2, -1)).flatten(0, 1)[:, None]
            return F.scaled_dot_product_attention(halves, halves, halves).unflatten(0, (len(x), 2)).mean((1, 2, 3))

    return nn.Sequential(nn.Conv2d(3, width, 8, 8), Windows())


@pytest.mark.parametrize("network", [Checkers, windows])
def test_networks_without_such_attention_are_refused_in_a_sentence(network):
    with pytest.raises(ValueError, match=r"explainer=legrad: model \w+ has no blocks of one size in which"):
        explain("legrad", frozen(network()))
    with pytest.raises(ValueError, match="explainer.blocks=0 must be at least 1"):
        explain("legrad", frozen(vit()), blocks=0)
