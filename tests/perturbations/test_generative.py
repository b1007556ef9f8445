"""A fill of the user's own: what it sees, where the gradient flows, and what is refused."""

import pytest
import torch
from contexts import perturbation_context
from torch import Tensor

from mpx.perturbations.base import prepare
from mpx.perturbations.generative import generative, push_pull

IMAGES = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mean_of_kept(images: Tensor, mask: Tensor) -> Tensor:
    """The mean colour of the kept pixels, everywhere."""
    return (images.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True)).expand_as(images)


def reference(kept: Tensor) -> Tensor:
    """What `mean_of_kept` paints: where a pixel is kept, from the pixels that are not."""
    kept = kept.double()
    means = [(IMAGES * k).sum((2, 3), keepdim=True) / k.sum((2, 3), keepdim=True) for k in (kept, 1 - kept)]
    return (1 - kept) * means[0] + kept * means[1]


def applied(mask: Tensor, **options) -> Tensor:
    perturbation = prepare(lambda *given: generative(*given, **options), IMAGES, perturbation_context(IMAGES))
    return perturbation.apply(perturbation.levels, mask)


def test_a_planted_fill_paints_from_what_is_kept():
    kept = MASK > 0.5
    torch.testing.assert_close(applied(MASK, fill=mean_of_kept), MASK * IMAGES + (1 - MASK) * reference(kept))
    seen = []
    applied(MASK, fill=lambda images, mask: seen.append((images, mask)) or images)
    ((images, masks),) = seen
    assert torch.equal(masks, torch.cat([kept, ~kept]).double()) and not (images * (1 - masks)).any()


def test_gradient_of_the_blend_or_through_the_fill_too():
    mask = MASK.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(applied(mask, fill=mean_of_kept).sum(), mask)
    torch.testing.assert_close(gradient, (IMAGES - reference(MASK > 0.5)).sum(1, keepdim=True))
    for fill in (mean_of_kept, push_pull):
        assert torch.autograd.gradcheck(lambda m, fill=fill: applied(m, fill=fill, through_fill=True), mask)


def test_a_fill_is_found_by_its_name(tmp_path):
    (tmp_path / "mine.py").write_text("def white(images, mask):\n    return images * 0 + 1\n")
    torch.testing.assert_close(applied(MASK, fill=f"{tmp_path}/mine.py:white"), MASK * IMAGES + 1 - MASK)
    with pytest.raises(ValueError, match=r"perturbation.fill='mine:white' cannot be imported \(No module named 'mine'\)"):
        applied(MASK, fill="mine:white")
    with pytest.raises(ValueError, match=r"<lambda> returned \(3, 6, 7\): it must return \(B,C,H,W\) = \(4, 3, 6, 7\)"):
        applied(MASK, fill=lambda images, mask: images[0])


def test_push_pull_keeps_one_colour_and_fills_from_the_side_that_is_kept():
    colour = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 13, 9)
    mask = torch.zeros(1, 1, 13, 9)
    torch.testing.assert_close(push_pull(colour * mask, mask), torch.full_like(colour, 0.5))
    mask[..., 4, 3] = 1
    torch.testing.assert_close(push_pull(colour * mask, mask), colour)
    halves = torch.cat([torch.zeros(1, 3, 16, 8), torch.ones(1, 3, 16, 8)], 3)
    kept = torch.ones(1, 1, 16, 16)
    kept[..., 4:12, 1:4] = kept[..., 4:12, 12:15] = 0
    assert (push_pull(halves * kept, kept) - halves).abs().max() < 0.5
