"""What an iteration asks of an accelerator, on a pretended one: scripts/dispatch.py."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from dispatch import DEVICE, Counts, counted, counted_fit, small_method
from pytorch_lightning.loggers import CSVLogger

from mpx import config, scores
from mpx.learning import objective
from mpx.perturbations.constant import mean_color

ALWAYS = ("default", "quick", "fong2017", "extremal2019", "igos2020", "iba2020")
LINE_SEARCHES = ("igos2020", "igospp2021", "rde2019")  # which end where the host reads that no row goes on


def second_iterations(preset: str, sizes: tuple[int, ...], *overrides: str, **more) -> list[Counts]:
    """Of batches of these sizes."""
    method, results = small_method(preset, *overrides), []
    for rows in sizes:
        with mock.patch.object(objective, "MAX_IMAGES", 64):  # one pass of the network for all draws
            counts, mistakes = counted(method, rows, **more)
        assert not mistakes
        results.append(counts[1])
    return results


def marked(preset: str):
    return pytest.param(preset, marks=[] if preset in ALWAYS else pytest.mark.slow)


@pytest.mark.parametrize("preset", [*map(marked, ["default", *config.options("experiment")])])
def test_an_iteration_reads_and_copies_nothing_and_has_as_many_kernels_for_every_batch(preset):
    cells = ["mask_size=8"] * preset.startswith("extremal")  # whose kernels grow with the neighbours of a cell
    two, five = second_iterations(preset, (2, 5), *cells)
    assert two == five == Counts(reads=int(preset in LINE_SEARCHES), copies=0, kernels=two.kernels)
    if preset in ("default", "quick"):
        assert second_iterations(preset, (1,)) == [two]


def test_rows_of_two_ages_copy_only_their_iterations_and_offsets():
    two, five = second_iterations("quick", (2, 5), "steps=4", ages=2)
    assert two == five == Counts(reads=0, copies=2, kernels=two.kernels)


def test_a_stopping_rule_reads_once_for_all_rows_at_every_fifth_iteration():
    counts, _ = counted(small_method("quick", "steps=11"), 2)
    assert [c.reads for c in counts] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]


def test_lightning_reads_at_log_points_only(tmp_path):
    method = small_method("default", "steps=8")
    assert {c[:2] for c in counted_fit(method, logger=False)[1:]} == {(0, 0)}
    counts = counted_fit(method, logger=CSVLogger(tmp_path), log_every_n_steps=4)
    assert [k for k, c in enumerate(counts) if c.reads and k] == [4]  # what iteration 3 logged


def on_the_host(images, context):
    return images * torch.ones(3, 1, 1)


def in_double_precision(logits, targets, context):
    return (logits.softmax(1) * logits.double().softmax(1)).sum(1).float()


def reading(logits, targets, context):
    return scores.probability(logits, targets, context) * float(logits.sum().item() < 1e9)


def copying(logits, targets, context):
    return scores.probability(logits, targets, context) * torch.ones(1).to(DEVICE)


def test_mistakes_are_seen():
    method = replace(small_method("default", "steps=2"), perturbation=mean_color)
    assert "cpu" in str(counted(replace(method, perturbation=on_the_host), 2)[1]).lower()
    assert "float64" in str(counted(replace(method, score=in_double_precision), 2)[1])
    assert counted(replace(method, score=reading), 2)[0][1].reads == 2  # once for each view
    assert counted(replace(method, score=copying), 2)[0][1].copies == 2


@pytest.mark.parametrize("preset", ["default", "igos2020"])
@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_sixteen_bits_meet_no_thirty_two_outside_autocast(preset, precision):
    """On the CPU. A mask inside the network keeps its 32 bits."""
    counts, mistakes = counted(small_method(preset, f"precision={precision}"), 2, torch.device("cpu"))
    assert not mistakes
