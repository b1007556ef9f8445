"""Masks of wavelet coefficients: the transform is PyWavelets', and the map of pixels says where coefficients are kept."""

from functools import partial

import numpy as np
import pytest
import torch
from planted import SquareNet, square_photo

from mpx import config, explain
from mpx.perturbations.blur import noise
from mpx.perturbations.wavelets import Wavelets, spatial_l1
from mpx.randomness import RowRandom

pywt = pytest.importorskip("pywt")
PHOTOS = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("wavelet, levels", [("db3", 5), ("db3", 1), ("haar", 5), ("sym4", 4), ("coif2", 3)])
def test_transform_is_that_of_pywavelets_and_is_inverted(wavelet, levels):
    x = PHOTOS.double()
    site = Wavelets(x, wavelet, levels)
    expected, _ = pywt.coeffs_to_array(pywt.wavedec2(x.numpy(), wavelet, "periodization", levels), axes=(-2, -1))
    np.testing.assert_allclose(site.coefficients.numpy(), expected, atol=1e-9)
    torch.testing.assert_close(site.synthesise(site.coefficients), x, atol=1e-9, rtol=0)
    single = Wavelets(PHOTOS, wavelet, levels)
    torch.testing.assert_close(single.synthesise(single.coefficients), PHOTOS, atol=3e-6, rtol=0)


def test_inverse_is_the_transpose_and_its_gradient_that_of_finite_differences():
    site = Wavelets(PHOTOS[:1, :, :8, :16].double(), "db3", 2)
    a, b = torch.rand(2, 3, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((site.synthesise(a) * b).sum(), (a * site.analyse(b)).sum())
    mask = torch.rand(1, 1, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    drawn = site.draw(RowRandom([1])).double()
    assert torch.autograd.gradcheck(lambda m: site.show(drawn, m)[0], mask)
    assert torch.autograd.gradcheck(lambda m: spatial_l1(m, m, site), mask)
    assert spatial_l1(mask, torch.zeros_like(mask), site) == 0


def test_ones_are_the_photo_to_the_bit_and_what_is_kept_is_kept():
    site = Wavelets(PHOTOS)
    rng = RowRandom([1, 2, 3])
    assert torch.equal(site.show(site.draw(rng.at(0)), torch.ones(3, 1, 64, 96))[0], PHOTOS)
    mask = (torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    site = Wavelets(0.5 + 0.001 * (PHOTOS - 0.5))  # so faint that nothing is clipped
    drawn = site.draw(rng.at(1))
    found = site.analyse(site.show(drawn, mask)[0])
    torch.testing.assert_close(found, torch.where(mask > 0, site.coefficients, drawn), atol=1e-5, rtol=0)
    assert not torch.equal(drawn, site.draw(rng.at(2))) and torch.equal(drawn, site.draw(rng.at(1)))


def test_noise_has_each_scales_mean_and_spread():
    site = Wavelets(PHOTOS[:1], levels=2)
    draws = torch.stack([site.draw(RowRandom([1]).at(k))[0] for k in range(400)])
    for there in (np.s_[..., :16, :24], np.s_[..., 16:32, :24], np.s_[..., 32:, 48:]):
        of_scale = {
            0: site.coefficients[there],
            1: torch.cat([site.coefficients[..., :16, 24:48].flatten(), site.coefficients[..., 16:32, :48].flatten()]),
            2: torch.cat([site.coefficients[..., :32, 48:].flatten(), site.coefficients[..., 32:, :].flatten()]),
        }[0 if there[1].stop == 16 else 1 if there[1].stop == 32 else 2]
        assert draws[there].mean() == pytest.approx(of_scale.mean().item(), abs=0.02 * of_scale.std().item())
        assert draws[there].std() == pytest.approx(of_scale.std().item(), rel=0.02)


def test_map_of_pixels():
    """1 for all coefficients, 0 for none, half everywhere for half; more of them never less; each where its wavelet is."""
    site = Wavelets(PHOTOS)
    for value in (0.0, 0.5, 1.0):
        torch.testing.assert_close(site.to_pixels(torch.full((3, 1, 64, 96), value)), torch.full((3, 1, 64, 96), value))
    some = torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    more = some + (1 - some) * torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(2))
    low, high = site.to_pixels(some), site.to_pixels(more)
    assert low.min() >= 0 and high.max() <= 1 + 1e-6 and (high >= low - 1e-6).all() and (high - low).mean() > 0.1
    torch.testing.assert_close(low, torch.cat([Wavelets(x[None]).to_pixels(m[None]) for x, m in zip(PHOTOS, some)]))
    for y, x in [(3, 70), (40, 10), (20, 60), (9, 4), (1, 2)]:  # of several scales
        one = torch.zeros(1, 1, 64, 96)
        one[..., y, x] = 1
        there, wavelet = Wavelets(PHOTOS[:1]).to_pixels(one), site.synthesise(one).abs()
        assert there[0, 0][wavelet[0, 0] < 1e-3 * wavelet.max()].sum() < 0.01 * there.sum()
        assert wavelet.flatten()[there.argmax()] > 0.2 * wavelet.max()


def test_a_picture_of_one_colour_is_kept_as_much_as_its_mask():
    site = Wavelets(torch.full((1, 3, 32, 32), 0.3))
    torch.testing.assert_close(site.to_pixels(torch.full((1, 1, 32, 32), 0.7)), torch.full((1, 1, 32, 32), 0.7))


def test_what_is_looked_at_is_the_cartoon_on_its_scales_means():
    site = Wavelets(PHOTOS)
    mask = torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    many = torch.stack(
        [site.synthesise(mask * site.coefficients + (1 - mask) * site.draw(RowRandom([1, 2, 3]).at(k))) for k in range(200)]
    )
    torch.testing.assert_close(site.show(site.still(None), mask)[0], many.mean(0).clamp(0, 1), atol=0.15, rtol=0)
    noisy, rng = Wavelets(PHOTOS, noisy=True), RowRandom([1, 2, 3])
    assert torch.equal(noisy.still(rng.at(0)), site.draw(rng.at(0)))


NET = SquareNet().eval()
SQUARES = torch.stack([square_photo(NET, seed) for seed in range(3)])
cartoon = partial(
    explain, NET, target=1, perturbation="wavelets", mask="elements",
    score=partial(config.option("score", "distortion"), of="class"), game="preservation",
    lambda_l1=5.0, lambda_tv=0.0, jitter=0, lr=0.05, steps=60, samples=2,
)  # fmt: skip


def test_planted_square_is_found():
    e = cartoon(SQUARES)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[NET.box] = True
    assert (e.saliency[:, 0, inside].mean(1) > 2 * e.saliency[:, 0, ~inside].mean(1)).all()
    assert (e.p_after > 0.9).all() and (e.p_reference < 0.5).all()
    assert (e.parameter.mean((1, 2, 3)) < 0.25).all()


def test_a_batch_is_its_single_photos():
    together = cartoon(SQUARES, steps=20)
    singles = torch.cat([cartoon(photo, steps=20).parameter for photo in SQUARES])
    torch.testing.assert_close(together.parameter, singles, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options, names",
    [
        ({"levels": 0}, "perturbation.levels=0 .* from 1 to 5"),
        ({"levels": 6}, "perturbation.levels=6 wants sides .*64x96: choose levels from 1 to 5"),
        ({"wavelet": "bior2.2"}, "perturbation.wavelet='bior2.2' must be an orthogonal one"),
        ({"wavelet": "db"}, "perturbation.wavelet='db' must be"),
    ],
)
def test_mistakes_are_named(options, names):
    with pytest.raises(ValueError, match=names):
        Wavelets(PHOTOS, **options)


def test_more_mistakes_are_named(monkeypatch):
    with pytest.raises(ValueError, match="63x96: choose a model.size of even numbers"):
        Wavelets(PHOTOS[:, :, :63])
    with pytest.raises(ValueError, match="regularizer=spatial_l1 .*perturbation=wavelets"):
        spatial_l1(PHOTOS[:, :1], PHOTOS[:, :1], noise)
    with pytest.raises(ValueError, match="nothing can move under the mask: jitter=0"):
        cartoon(SQUARES[:1], jitter=2)
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    with pytest.raises(ValueError, match=r'pip install "mpx\[wavelets\]"'):
        Wavelets(PHOTOS, "db5", 1)
