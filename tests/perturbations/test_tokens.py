"""Dropped tokens are tokens that are not there: the same networks, run without them, give the same logits."""

import pytest
import timm
import torch
from contexts import perturbation_context
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from mpx import config, explain
from mpx.perturbations.tokens import token_drop

SIZES = dict(img_size=32, patch_size=8, depth=3, num_heads=2, embed_dim=16, num_classes=5)
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CASES = ("torchvision", "token", "registers", "avg", "avg_norm", "avg_prefix", "unfused", "parallel", "eva", "eva_avg")


def network(case: str) -> nn.Module:
    """Random, with attention that is far from uniform."""
    torch.manual_seed(1)
    if case == "torchvision":
        net = VisionTransformer(32, 8, 3, 2, 16, 24, num_classes=5)
    elif case.startswith("eva"):
        net = Eva(**SIZES, global_pool="avg" if case == "eva_avg" else "token")
    else:
        options = {
            "registers": dict(reg_tokens=3),
            "avg": dict(global_pool="avg"),
            "avg_norm": dict(global_pool="avg", fc_norm=False, class_token=False),
            "avg_prefix": dict(global_pool="avg", pool_include_prefix=True),
            "parallel": dict(block_fn=timm.models.vision_transformer.ParallelScalingBlock),
        }
        net = TimmViT(**SIZES, **options.get(case, {}))
    for module in net.modules():
        if case == "unfused" and hasattr(module, "fused_attn"):
            module.fused_attn = False
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return net.eval().requires_grad_(False)


def without(net: nn.Module, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Logits of one picture x: (1,3,H,W) where the patches that are not in keep (N,) are cut out of the sequence."""
    if isinstance(net, VisionTransformer):
        tokens = torch.cat([net.class_token, net._process_input(x)], 1) + net.encoder.pos_embedding
        return net.heads(net.encoder.ln(net.encoder.layers(cut(tokens, keep)))[:, 0])
    tokens = net._pos_embed(net.patch_embed(x))
    rope = {}
    if isinstance(net, Eva):
        tokens, angles = tokens
        rope = {} if angles is None else {"rope": angles[keep]}
    tokens = cut(net.norm_pre(tokens), keep)
    for block in net.blocks:
        tokens = block(tokens, **rope)
    return net.forward_head(net.norm(tokens))


def cut(tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    first = tokens.shape[1] - len(keep)
    return torch.cat([tokens[:, :first], tokens[:, first:][:, keep]], 1)


def masks() -> torch.Tensor:
    """(3,1,4,4): half of the patches, a single one, all but one."""
    mask = (torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    mask[1], mask[2] = 0, 1
    mask[1, 0, 1, 2], mask[2, 0, 3, 0] = 1, 0
    return mask


def logits_under(net: nn.Module, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    perturbation = token_drop(x, perturbation_context(x, net))
    with perturbation.patched_network(*perturbation.network_inputs(None, mask)):
        return net(perturbation.apply(None, mask))


@pytest.mark.parametrize("case", CASES)
def test_a_dropped_token_equals_a_removed_one(case):
    net, mask = network(case), masks()
    result = logits_under(net, X, mask)
    expected = torch.cat([without(net, x[None], m.flatten() > 0) for x, m in zip(X, mask, strict=True)])
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-5)
    assert (result - net(X)).abs().amax(1).min() > 1e-3  # each mask does something


@pytest.mark.parametrize("case", CASES)
def test_ones_change_nothing_and_zeros_leave_finite_logits(case):
    net = network(case)
    torch.testing.assert_close(logits_under(net, X, torch.ones(3, 1, 4, 4)), net(X), atol=2e-5, rtol=1e-5)
    assert logits_under(net, X, torch.zeros(3, 1, 4, 4)).isfinite().all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at", ["inside", "ends"])
def test_gradient_is_that_of_finite_differences(case, at):
    """At 0 it is what the patch would add: the slope to the right, at 1 to the left."""
    net, x = network(case).double(), X[:1].double()
    mask = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = mask * 0.8 + 0.1 if at == "inside" else (mask > 0.5).double()

    def f(m):
        return logits_under(net, x, m)[0, 2]

    (g,) = torch.autograd.grad(f(parameter := mask.clone().requires_grad_()), parameter)
    for place in ((0, 0, 0, 0), (0, 0, 1, 3), (0, 0, 2, 1), (0, 0, 3, 3)):
        step = torch.zeros_like(mask)
        step[place] = 1e-6 if mask[place] < 1 else -1e-6
        with torch.no_grad():
            slope = (f(mask + step) - f(mask)) / step[place]
        assert g[place].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-6)
    assert (g.abs() > 1e-8).all()


@pytest.mark.parametrize("case", ["torchvision", "token"])
def test_gradient_at_zero_survives_32_bits(case):
    mask = masks()[:1].requires_grad_()
    (g,) = torch.autograd.grad(logits_under(network(case), X[:1], mask)[0, 2], mask)
    wide = mask.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(logits_under(network(case).double(), X[:1].double(), wide)[0, 2], wide)
    torch.testing.assert_close(g.double(), expected, rtol=1e-3, atol=1e-5)


def planted(case: str, place: int) -> nn.Module:
    """The network with a head that says class 1 where the last token is as with all patches, 0 where as without one."""
    net = network(case)
    head = net.heads.head if case == "torchvision" else net.head
    head.weight.zero_(), head.bias.zero_()
    taken = []
    head.register_forward_pre_hook(lambda module, given: taken.append(given[0].detach()))
    keep = torch.arange(16) != place
    net(X[:1]), without(net, X[:1], keep)
    head._forward_pre_hooks.clear()
    with_it, without_it = taken[0][0], taken[1][0]
    direction = (with_it - without_it) / (with_it - without_it).square().sum()
    head.weight[1], head.bias[1] = 8 * direction, -8 * direction @ (with_it + without_it) / 2
    return net


@pytest.mark.parametrize("case", ["torchvision", "token", "avg"])
def test_the_decisive_patch_is_found(case):
    """It is the one whose removal, one after the other by hand, costs the class most."""
    net = planted(case, 9)
    left = [without(net, X[:1], torch.arange(16) != k).softmax(1)[0, 1].item() for k in range(16)]
    e = explain(net, X[:1], 1, method=config.method("token_drop", "lambda_l1=2", "ranking=mask"))
    assert e.parameter.shape == (1, 1, 4, 4) and e.parameter.flatten().argmin() == left.index(min(left))
    assert (e.parameter < 0.9).sum() == 1 and e.value_after < 0.1 < 0.9 < e.value_before
    patch = e.saliency[0, 0].unflatten(0, (4, 8)).unflatten(2, (4, 8))  # (4,8,4,8)
    assert torch.equal(patch, (1 - e.parameter[0, 0])[:, None, :, None].expand_as(patch)) and torch.equal(e.perturbed, X[:1])


def test_a_batch_of_three_is_three_single_runs():
    net, method = network("torchvision"), config.method("token_drop", "steps=30")
    together = explain(net, X, 2, method=method)
    singles = torch.cat([explain(net, x, 2, method=method).parameter for x in X])
    torch.testing.assert_close(together.parameter, singles, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["torchvision", "token"])
def test_half_precision_and_other_games(case):
    for more in (["precision=bf16"], ["game=preservation"], ["gradient=integrated", "gradient.ig_steps=3"], ["game=dual"]):
        e = explain(network(case), X[:2], 2, method=config.method("token_drop", "steps=3", "lambda_l1=0", *more))
        assert all(curve.isfinite().all() for curve in e.curves.values())
        assert (e.parameter != 1).any() or "game=dual" in more  # these random networks gain by no step of a dual


@pytest.mark.parametrize("case", ["torchvision", "avg"])
def test_hooks_are_removed(case):
    net = network(case)
    explain(net, X, 2, method=config.method("token_drop", "steps=2"))
    perturbation = token_drop(X, perturbation_context(X, net))
    with pytest.raises(ZeroDivisionError), perturbation.patched_network(torch.ones(3, 1, 4, 4)):
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    "net", [resnet18(weights=None), TimmViT(**SIZES, global_pool="max"), TimmViT(**SIZES, global_pool="map")]
)
def test_other_networks_are_refused(net):
    with pytest.raises(ValueError, match=f"token_drop drops no tokens of {type(net).__name__}: it supports torchvision's"):
        token_drop(X, perturbation_context(X, net))


def test_a_transformer_inside_the_users_network_is_supported():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = network("token")

        def forward(self, x):
            return self.backbone.forward_head(self.backbone.forward_features(x)) * 2

    net = Mine()
    torch.testing.assert_close(logits_under(net, X, masks()), 2 * logits_under(net.backbone, X, masks()))


@pytest.mark.parametrize("augment, key", [("flip", "flip"), ("jitter", "jitter")])
def test_augmentations_that_move_pixels_are_refused(augment, key):
    with pytest.raises(ValueError, match=f"{key}=0"):
        explain(
            network("torchvision"), X, 2, method=config.method("token_drop", "steps=2", f"augment=[{augment}]", f"{key}=1")
        )
