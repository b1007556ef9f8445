"""Masks of wavelet coefficients: the transform is PyWavelets', and the map of pixels says where coefficients are kept."""

from functools import partial

import numpy as np
import pytest
import torch
from contexts import regularizer_context
from planted import SquareNet, square_photo

from mpx import config, explain
from mpx.perturbations.wavelets import Wavelets
from mpx.perturbations.wavelets import wavelets as operator
from mpx.randomness import RowRandom
from mpx.regularizers import spatial_l1

pywt = pytest.importorskip("pywt")
PHOTOS = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def wavelets(images: torch.Tensor, *options, **named) -> Wavelets:
    return operator(images, None, *options, **named)


def cartoon_l1(mask: torch.Tensor, perturbation) -> torch.Tensor:
    return spatial_l1(mask, regularizer_context(mask, images=mask, perturbation=perturbation))


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("wavelet, levels", [("db3", 5), ("db3", 1), ("haar", 5), ("sym4", 4), ("coif2", 3)])
def test_transform_is_that_of_pywavelets_and_is_inverted(wavelet, levels):
    x = PHOTOS.double()
    perturbation = wavelets(x, wavelet, levels)
    expected, _ = pywt.coeffs_to_array(pywt.wavedec2(x.numpy(), wavelet, "periodization", levels), axes=(-2, -1))
    np.testing.assert_allclose(perturbation.coefficients.numpy(), expected, atol=1e-9)
    torch.testing.assert_close(perturbation.synthesise(perturbation.coefficients), x, atol=1e-9, rtol=0)
    single = wavelets(PHOTOS, wavelet, levels)
    torch.testing.assert_close(single.synthesise(single.coefficients), PHOTOS, atol=3e-6, rtol=0)


def test_inverse_is_the_transpose_and_its_gradient_that_of_finite_differences():
    perturbation = wavelets(PHOTOS[:1, :, :8, :16].double(), "db3", 2)
    a, b = torch.rand(2, 3, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((perturbation.synthesise(a) * b).sum(), (a * perturbation.analyse(b)).sum())
    mask = torch.rand(1, 1, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    drawn = perturbation.sample(RowRandom([1])).double()
    assert torch.autograd.gradcheck(lambda m: perturbation.apply(drawn, m), mask)
    assert torch.autograd.gradcheck(lambda m: cartoon_l1(m, perturbation), mask)
    assert cartoon_l1(torch.zeros_like(mask), perturbation) == 0


def test_ones_keep_the_image_exactly_and_kept_coefficients_stay():
    perturbation = wavelets(PHOTOS)
    rng = RowRandom([1, 2, 3])
    assert torch.equal(perturbation.apply(perturbation.sample(rng.at(0)), torch.ones(3, 1, 64, 96)), PHOTOS)
    mask = (torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    perturbation = wavelets(0.5 + 0.001 * (PHOTOS - 0.5))  # so faint that nothing is clipped
    drawn = perturbation.sample(rng.at(1))
    result = perturbation.analyse(perturbation.apply(drawn, mask))
    torch.testing.assert_close(result, torch.where(mask > 0, perturbation.coefficients, drawn), atol=1e-5, rtol=0)
    assert not torch.equal(drawn, perturbation.sample(rng.at(2))) and torch.equal(drawn, perturbation.sample(rng.at(1)))


def test_noise_has_each_scales_mean_and_spread():
    perturbation = wavelets(PHOTOS[:1], levels=2)
    draws = torch.stack([perturbation.sample(RowRandom([1]).at(k))[0] for k in range(400)])
    for there in (np.s_[..., :16, :24], np.s_[..., 16:32, :24], np.s_[..., 32:, 48:]):
        of_scale = {
            0: perturbation.coefficients[there],
            1: torch.cat(
                [perturbation.coefficients[..., :16, 24:48].flatten(), perturbation.coefficients[..., 16:32, :48].flatten()]
            ),
            2: torch.cat(
                [perturbation.coefficients[..., :32, 48:].flatten(), perturbation.coefficients[..., 32:, :].flatten()]
            ),
        }[0 if there[1].stop == 16 else 1 if there[1].stop == 32 else 2]
        assert draws[there].mean() == pytest.approx(of_scale.mean().item(), abs=0.02 * of_scale.std().item())
        assert draws[there].std() == pytest.approx(of_scale.std().item(), rel=0.02)


def test_map_of_pixels():
    """1 for all coefficients, 0 for none, half everywhere for half; more of them never less; each where its wavelet is."""
    perturbation = wavelets(PHOTOS)
    for value in (0.0, 0.5, 1.0):
        torch.testing.assert_close(
            perturbation.to_image(torch.full((3, 1, 64, 96), value)), torch.full((3, 1, 64, 96), value)
        )
    some = torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    more = some + (1 - some) * torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(2))
    low, high = perturbation.to_image(some), perturbation.to_image(more)
    assert low.min() >= 0 and high.max() <= 1 + 1e-6 and (high >= low - 1e-6).all() and (high - low).mean() > 0.1
    torch.testing.assert_close(low, torch.cat([wavelets(x[None]).to_image(m[None]) for x, m in zip(PHOTOS, some)]))
    for y, x in [(3, 70), (40, 10), (20, 60), (9, 4), (1, 2)]:  # of several scales
        one = torch.zeros(1, 1, 64, 96)
        one[..., y, x] = 1
        there, wavelet = wavelets(PHOTOS[:1]).to_image(one), perturbation.synthesise(one).abs()
        assert there[0, 0][wavelet[0, 0] < 1e-3 * wavelet.max()].sum() < 0.01 * there.sum()
        assert wavelet.flatten()[there.argmax()] > 0.2 * wavelet.max()


def test_a_picture_of_one_colour_is_kept_as_much_as_its_mask():
    perturbation = wavelets(torch.full((1, 3, 32, 32), 0.3))
    torch.testing.assert_close(perturbation.to_image(torch.full((1, 1, 32, 32), 0.7)), torch.full((1, 1, 32, 32), 0.7))


def test_masks_are_shown_as_the_cartoon_on_the_means_of_its_scales():
    perturbation = wavelets(PHOTOS)
    mask = torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    many = torch.stack(
        [
            perturbation.synthesise(
                mask * perturbation.coefficients + (1 - mask) * perturbation.sample(RowRandom([1, 2, 3]).at(k))
            )
            for k in range(200)
        ]
    )
    torch.testing.assert_close(
        perturbation.apply(perturbation.fixed_sample(None), mask), many.mean(0).clamp(0, 1), atol=0.15, rtol=0
    )
    noisy, rng = wavelets(PHOTOS, noisy=True), RowRandom([1, 2, 3])
    assert torch.equal(noisy.fixed_sample(rng.at(0)), perturbation.sample(rng.at(0)))


NET = SquareNet().eval()
SQUARES = torch.stack([square_photo(NET, seed) for seed in range(3)])
cartoon = partial(
    explain, NET, target=1, perturbation="wavelets", mask="elements",
    score=partial(config.option("score", "distortion"), outputs="target"), game="preservation",
    lambda_l1=5.0, lambda_tv=0.0, jitter=0, lr=0.05, steps=60, samples=2,
)  # fmt: skip


def test_planted_square_is_found():
    e = cartoon(SQUARES)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[NET.box] = True
    assert (e.saliency[:, 0, inside].mean(1) > 2 * e.saliency[:, 0, ~inside].mean(1)).all()
    assert (e.value_after > 0.9).all() and (e.value_reference < 0.5).all()
    assert (e.parameter.mean((1, 2, 3)) < 0.25).all()


def test_a_batch_is_its_single_photos():
    together = cartoon(SQUARES, steps=20)
    singles = torch.cat([cartoon(photo, steps=20).parameter for photo in SQUARES])
    torch.testing.assert_close(together.parameter, singles, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": 0}, "perturbation.levels=0 .* from 1 to 5"),
        ({"levels": 6}, "perturbation.levels=6 needs sides .*64x96: choose levels from 1 to 5"),
        ({"wavelet": "bior2.2"}, "perturbation.wavelet='bior2.2' must be an orthogonal wavelet"),
        ({"wavelet": "db"}, "perturbation.wavelet='db' must be"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        wavelets(PHOTOS, **options)


def test_more_mistakes_are_named(monkeypatch):
    with pytest.raises(ValueError, match="63x96: choose a model.size of even numbers"):
        wavelets(PHOTOS[:, :, :63])
    with pytest.raises(ValueError, match="regularizer=spatial_l1 .*perturbation=wavelets"):
        spatial_l1(PHOTOS[:, :1], regularizer_context(PHOTOS[:, :1]))
    with pytest.raises(ValueError, match="images cannot move under the mask: set jitter=0"):
        cartoon(SQUARES[:1], jitter=2)
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    with pytest.raises(ValueError, match=r'pip install "mpx\[wavelets\]"'):
        wavelets(PHOTOS, "db5", 1)
