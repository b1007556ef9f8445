"""What captum's own suites check of every method (tests/attr: targets, hooks, saliency, jit), of MeaningfulPerturbation.

Not applicable: several inputs of one network (mpx explains each by itself), a target that is missing (the top class here),
layers and neurons, DataParallel. captum 0.9 has no captum.insights any more; its visualization is below.
"""

import numpy as np
import pytest
import torch
from planted import SquareNet, square_photo

from mpx import MeaningfulPerturbation

attr = pytest.importorskip("captum.attr")
NET = SquareNet().train()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
OPTIONS = dict(perturbation="mean_color", mask_size=8, steps=6, jitter=0, ranking="trajectory")
METHOD = MeaningfulPerturbation(NET, clip=True, **OPTIONS)
MIXED = [1, 0, 1]


def hooks() -> int:
    return sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in NET.modules())


@pytest.mark.parametrize(
    "target",
    [1, torch.tensor(1), torch.tensor([1]), (1,), MIXED, torch.tensor(MIXED), torch.tensor(MIXED)[:, None],
     [torch.tensor(i) for i in MIXED], [(i,) for i in MIXED]],
)  # fmt: skip
def test_a_batch_is_its_single_inputs_whatever_names_the_targets(target):
    batch = METHOD.attribute(PHOTOS, target=target)
    indices = torch.as_tensor(target).flatten().expand(3).tolist()
    for i, index in enumerate(indices):
        for one in (index, torch.tensor([index])):
            torch.testing.assert_close(METHOD.attribute(PHOTOS[i : i + 1], target=one), batch[i : i + 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", [9999, [9999] * 3, (9999,) * 20, [1, 0]])
def test_a_wrong_target_is_refused_and_leaves_the_network_as_it_was(target):
    with pytest.raises(ValueError, match="target"):
        METHOD.attribute(PHOTOS, target=target)
    assert NET.training and NET.gain.requires_grad and NET.gain.grad is None and not hooks()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_inputs_keep_their_kind_and_their_flags(dtype):
    inputs = PHOTOS.to(dtype).clone().requires_grad_()
    before = inputs.detach().clone()
    maps = METHOD.attribute(inputs, target=1)
    assert maps.dtype == dtype and maps.shape == (3, 1, 32, 32) and not maps.requires_grad
    assert inputs.requires_grad and inputs.grad is None and torch.equal(inputs, before)
    assert NET.training and NET.gain.requires_grad and NET.gain.grad is None and not hooks()


def test_a_tuple_gives_a_tuple_and_takes_one_for_each_argument():
    cells = torch.arange(32 * 32).view(1, 1, 32, 32) // 64
    given = {"baselines": torch.zeros_like(PHOTOS), "feature_mask": cells}
    alone = METHOD.attribute(PHOTOS, target=MIXED, **given)
    for arguments in (given, {name: (value,) for name, value in given.items()}):
        (one,) = METHOD.attribute((PHOTOS,), target=MIXED, **arguments)
        assert torch.equal(one, alone)
    two = {"baselines": (1, given["baselines"]), "feature_mask": (cells, cells)}
    other, same = METHOD.attribute((1 - PHOTOS, PHOTOS), MIXED, **two)
    assert torch.equal(same, alone) and not torch.equal(other, alone)
    with pytest.raises(ValueError, match="baselines= has 2 parts for 1 inputs"):
        METHOD.attribute(PHOTOS, baselines=(0, 1))


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("baselines", [None, 0, torch.zeros_like(PHOTOS)])
def test_noise_tunnel_takes_every_argument(nt_type, baselines):
    given = {} if baselines is None else {"baselines": baselines}
    samples = {"nt_type": nt_type, "nt_samples": 3, "nt_samples_batch_size": 2, "stdevs": 0.0}
    maps = attr.NoiseTunnel(METHOD).attribute(PHOTOS, target=MIXED, **samples, **given)
    plain = METHOD.attribute(PHOTOS, target=MIXED, **given)  # no noise: all samples are the same
    expected = {"smoothgrad": plain, "smoothgrad_sq": plain**2, "vargrad": torch.zeros_like(plain)}[nt_type]
    torch.testing.assert_close(maps, expected, atol=1e-3, rtol=0)


def test_a_traced_network_is_explained_as_itself_and_a_function_is_refused():
    traced = torch.jit.trace(SquareNet().eval(), PHOTOS)
    maps = MeaningfulPerturbation(traced, **OPTIONS).attribute(PHOTOS, 1)
    torch.testing.assert_close(maps, METHOD.attribute(PHOTOS, 1), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="must be a torch.nn.Module"):
        MeaningfulPerturbation(NET.forward)


@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"])
def test_captum_draws_the_map(method):
    pytest.importorskip("matplotlib").use("Agg")
    maps, photo = METHOD.attribute(PHOTOS[:1], 1)[0], PHOTOS[0].permute(1, 2, 0).numpy()
    figure, axes = attr.visualization.visualize_image_attr(
        maps.permute(1, 2, 0).numpy(), photo, method=method, sign="positive", use_pyplot=False
    )
    shown = np.asarray(axes.get_images()[-1].get_array(), float)
    assert shown.shape[:2] == (32, 32) and shown.std() > 0
