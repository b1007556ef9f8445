"""The command with its defaults, on every task and number of channels of the synthetic networks."""

import pytest

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
    few = ["limit=4", "log_images=0", "name=a", "metric=[mass,normalised_drop]", "device=cpu"]
    code, _, err = mpx("dataset=synthetic", "model=synthetic", f"game={game}", *TASKS[name], *few)
    assert code == 0, err
    rows = read_csv(tmp_path / "outputs" / "a" / "results.csv")
    assert len(rows) == 4 == len(list((tmp_path / "outputs" / "a" / "panels").glob("*.png")))
    for row in rows:  # the shapes have a twentieth of the image
        assert float(row["mass"]) > 0.3 and float(row["normalised_drop"]) > 0.9, row
