"""The synthetic networks of every task: the command with its defaults, and laws of rankings and explainers."""

from functools import partial

import pytest
import torch
from tasks.task_networks import MAIN
from tasks.task_networks import TASKS as NETWORKS

from mpx import config, explain
from mpx.config_schema import options
from mpx.runs.tables import read_csv

TASKS = {
    "classification": ["target=label"],
    "grey": ["target=label", "dataset.channels=1", "model.channels=1"],
    "six channels": ["target=label", "dataset.channels=6", "model.channels=6"],
    "multilabel": ["target=label", "task=multilabel"],
    "regression": ["task=regression"],
    "segmentation": ["target=label", "task=segmentation"],
    "detection": ["target=label", "task=detection"],
    "similarity": ["target=label", "task=similarity", "task.texts=[amber,basalt,cedar,delft]"],
    "difference": ["target=label", "task=difference"],
}


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
@pytest.mark.parametrize("name", TASKS)
def test_the_command_finds_the_evidence(name, game, mpx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["limit=2", "log_images=0", "name=a", "metric=[mass,normalised_drop]", "device=cpu"]
    code, _, err = mpx("dataset=synthetic", "model=synthetic", f"game={game}", *TASKS[name], *few)
    assert code == 0, err
    rows = read_csv(tmp_path / "outputs" / "a" / "results.csv")
    assert len(rows) == 2 == len(list((tmp_path / "outputs" / "a" / "panels").glob("*.png")))
    for row in rows:  # the shapes have a twentieth of the image
        assert float(row["mass"]) > 0.3 and float(row["normalised_drop"]) > 0.9, row


def explained(name, rows=slice(None), **choices):
    one = NETWORKS[name]
    small = dict(mask_size=12, steps=12, jitter=0, frames=2)
    return explain(one.classifier, one.photos[rows], one.target, **small | choices)


@pytest.mark.parametrize("ranking", options("ranking"))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_ranking_orders_the_evidence_and_changes_nothing_else(name, ranking):
    if ranking == "prior" and not name.startswith("detection"):  # whose layers run twice for an image
        ranking = partial(config.option("ranking", ranking), layer="filters")
    plain, ranked = explained(name, ranking="mask"), explained(name, ranking=ranking)
    for field in ("mask", "perturbed", "value_after", "area", "parameter"):
        assert torch.equal(getattr(plain, field), getattr(ranked, field)), field
    assert ranked.saliency.min() >= 0 and ranked.saliency.max() <= 1
    strong, none = plain.evidence > 0.9, plain.evidence < 0.1
    for row in range(len(ranked)):  # strong evidence stays above its absence
        if strong[row].any() and none[row].any():
            assert ranked.saliency[row][strong[row]].mean() > 2 * ranked.saliency[row][none[row]].mean()
    alone = torch.cat([explained(name, slice(i, i + 1), ranking=ranking).saliency for i in range(2)])
    torch.testing.assert_close(ranked.saliency, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("explainer", ["gradient", "integrated_gradients", "smoothgrad", "occlusion", "rise", "center"])
@pytest.mark.parametrize("name", MAIN)
def test_an_explainer_s_batch_is_its_single_rows(name, explainer):
    together = explained(name, explainer=explainer)
    alone = torch.cat([explained(name, slice(i, i + 1), explainer=explainer).saliency for i in range(2)])
    assert together.saliency.any()
    torch.testing.assert_close(together.saliency, alone, atol=1e-3, rtol=0)
