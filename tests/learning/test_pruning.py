"""Pruning removes the parts of the evidence that make no difference, and no others."""

import pytest
import torch
from choices import small_perturbation
from planted import SquareNet, square_photo

from mpx import config
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.pruning import pruned
from mpx.models.classifier import Classifier

NET = SquareNet(top=8, left=16, gain=60.0).requires_grad_(False)  # the square is cells 2,3 x 4,5 of 8 x 8
OBJECT = (slice(2, 4), slice(4, 6))


def objective(game: str, photos: int = 1, mask: str = "grid") -> Objective:
    method = Method(
        small_perturbation("mean_color"),
        config.option("mask", mask, mask_size=8),
        config.option("score", "probability"),
        game=game,
    )
    images = torch.stack([square_photo(NET)] * photos)
    return Objective(method, Classifier(NET), images, torch.ones(photos, dtype=torch.long), ["a"] * photos)


def evidence_with(*cells: tuple[int, int]) -> torch.Tensor:
    evidence = torch.zeros(1, 8, 8)
    evidence[(0, *OBJECT)] = 1
    for y, x in cells:
        evidence[0, y, x] = 0.9
    return evidence


def as_parameter(evidence: torch.Tensor, game: str) -> torch.Tensor:
    return evidence if game == "preservation" else 1 - evidence


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
def test_specks_go_and_the_object_stays(game):
    specks = [(0, 0), (0, 7), (6, 0), (6, 2), (6, 4), (7, 7), (0, 3)]
    rows = (evidence_with(*specks), evidence_with(), evidence_with((0, 0)))
    parameter = torch.stack([as_parameter(row, game) for row in rows])
    result, forwards = pruned(objective(game, photos=3), parameter, 0.02)
    expected = as_parameter(evidence_with(), game)
    assert all(torch.equal(row, expected) for row in result)
    assert forwards[0] > forwards[2] >= forwards[1] and forwards.max() <= 26


def test_rows_are_pruned_as_if_alone():
    six = [(y, x) for y in (0, 6) for x in (0, 2, 7)]
    rows = [evidence_with((0, 0), (6, 2)), evidence_with((7, 7)), evidence_with(*six)]
    parameter = torch.stack([1 - row for row in rows])
    together, forwards = pruned(objective("dual", photos=3), parameter, 0.02)
    for i, row in enumerate(parameter):
        alone, of_row = pruned(objective("dual"), row[None], 0.02)
        assert torch.equal(alone[0], together[i]) and of_row[0] == forwards[i]


def test_the_smallest_part_stays_where_it_is_what_matters_unless_all_may_change():
    evidence = evidence_with(*[(y, 0) for y in range(8)])[None]
    rows = objective("deletion")
    assert torch.equal(pruned(rows, 1 - evidence, 0.02)[0], 1 - evidence_with()[None])
    assert pruned(rows, 1 - evidence, 0.9999)[0].eq(1).all()


def test_masks_that_are_no_grid_of_cells_stay_as_they_are():
    rows = objective("deletion", mask="bernoulli")
    parameter = torch.full((1, 1, 8, 8), 3.0)
    parameter[..., 0, 0] = -3
    assert pruned(rows, parameter, 0.5)[0] is parameter
