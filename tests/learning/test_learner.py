"""MaskLearner is an ordinary LightningModule: Lightning's own loggers and callbacks work with it as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from planted import SquareNet, square_photo
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.profilers import SimpleProfiler
from trainers import cpu_trainer

import mpx
from mpx import config

IMAGES = torch.stack([square_photo(SquareNet(), seed) for seed in range(2)])
METHOD = ("perturbation=mean_color", "mask_size=8", "noise=0.05", "scheduler=null")  # so that fewer steps are a part of more


def method(*overrides):
    return config.build_method(config.compose(*METHOD, *overrides))


def learner(*overrides, network=None) -> mpx.MaskLearner:
    return mpx.MaskLearner(network or SquareNet(), IMAGES, 1, method=method(*overrides))


def library(*overrides) -> mpx.Explanation:
    return mpx.explain(SquareNet(), IMAGES, 1, method=method(*overrides))


def assert_equal(a: mpx.Explanation, b: mpx.Explanation) -> None:
    for name in ("parameter", "saliency", "value_after", "frame_parameters", "passes"):
        assert torch.equal(vars(a)[name], vars(b)[name]), name
    for term, curve in a.curves.items():
        assert torch.equal(curve, b.curves[term]), term


@pytest.mark.parametrize("overrides", [
    (), ("optimizer=sgd", "scheduler=cosine"), ("optimizer=line_search", "noise=0"), ("stop=settled", "optimizer=row_adam"),
    ("game=dual", "samples=2"),
])  # fmt: skip
def test_it_equals_the_plain_loop_to_the_bit(overrides):
    module = learner("steps=25", *overrides)
    cpu_trainer().fit(module)
    assert_equal(module.explanation(), library("steps=25", *overrides))


def test_the_masks_are_its_only_parameter():
    module = learner("steps=2")
    cpu_trainer().fit(module)
    assert [name for name, _ in module.named_parameters()] == ["parameter"] == list(module.state_dict())


def test_early_stopping_checks_every_iteration():
    module = learner("steps=60", "lr=0.5")
    stopping = EarlyStopping("loss/total", patience=4, min_delta=0.02)
    cpu_trainer([stopping]).fit(module)
    e = module.explanation()
    assert 4 < e.steps[0] < 60 and (e.steps == e.steps[0]).all() and len(e.curves["total"]) == e.steps[0]
    assert_equal(e, library(f"steps={e.steps[0]}", "lr=0.5"))


def test_metrics_and_learning_rate_reach_the_logger(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    module = learner("steps=6", "scheduler=linear")
    cpu_trainer([LearningRateMonitor()], logger=logger, log_every_n_steps=2).fit(module)
    lines = [line.split(",") for line in Path(logger.log_dir, "metrics.csv").read_text().splitlines()]
    names = {"loss/total", "loss/score", "loss/l1", "loss/tv", "score/value", "mask/area", "lr-RowAdam"}
    assert names <= set(lines[0])
    logged = [float(line[lines[0].index("loss/total")]) for line in lines[1:] if line[lines[0].index("loss/total")]]
    curve = module.explanation().curves["total"].mean(1)
    torch.testing.assert_close(torch.tensor(logged), curve[1::2])


def test_a_mask_is_resumed_from_a_checkpoint(tmp_path):
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    whole = learner("steps=20", "scheduler=cosine")
    cpu_trainer([saved], enable_checkpointing=True).fit(whole)
    resumed = learner("steps=20", "scheduler=cosine")
    cpu_trainer().fit(resumed, ckpt_path=tmp_path / "step=7.ckpt")
    assert_equal(resumed.explanation(), whole.explanation())
    stored = torch.load(tmp_path / "step=7.ckpt", weights_only=True)
    assert list(stored["state_dict"]) == ["parameter"]


def test_progress_bar_and_profiler_run(capsys):
    pytest.importorskip("rich")
    module = learner("steps=5")
    profiler = SimpleProfiler()
    cpu_trainer([RichProgressBar()], profiler=profiler, enable_progress_bar=True).fit(module)
    assert module.explanation().steps.tolist() == [5, 5] and "5/5" in capsys.readouterr().out
    assert any("optimizer_step" in action for action in profiler.recorded_durations)


def test_callbacks_see_projected_masks_and_may_stop_the_search():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            assert 0 <= module.parameter.min() and module.parameter.max() <= 1 and trainer.global_step == batch_idx + 1
            trainer.should_stop = batch_idx == 6

    module = learner("steps=40", "lr=0.5")
    cpu_trainer([Stop()]).fit(module)
    assert module.explanation().iterations[-1] == 7


@pytest.mark.parametrize("options", [
    {"max_epochs": 2}, {"max_steps": 3}, {"limit_train_batches": 2}, {"fast_dev_run": True}, {"gradient_clip_val": 1.0},
    {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"},
])  # fmt: skip
def test_a_trainer_that_would_search_otherwise_is_refused(options):
    with pytest.raises(ValueError, match=rf"Trainer\({next(iter(options))}=.* must be"):
        cpu_trainer(**options).fit(learner("steps=3"))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_comes_back_as_it_came(error):
    class Fail(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if error and batch_idx == 2:
                raise error("on purpose")

    conv, norm = torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2)
    network = torch.nn.Sequential(conv, norm, torch.nn.Flatten(), torch.nn.Linear(1800, 2))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    module = learner("steps=5", network=network)
    if error:
        with pytest.raises((error, SystemExit)):
            cpu_trainer([Fail()]).fit(module)
    else:
        cpu_trainer().fit(module)
    assert all(part.training and "forward" not in vars(part) for part in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_second_fit_of_finished_masks_is_refused():
    module = learner("steps=2")
    cpu_trainer().fit(module)
    with pytest.raises(ValueError, match="these masks are learnt: explanation"):
        cpu_trainer().fit(module)
    assert len(module.explanation()) > 0


def test_an_explanation_before_a_fit_is_refused():
    with pytest.raises(ValueError, match="fit it with a Trainer first"):
        learner("steps=2").explanation()


DDP = """
import sys
sys.path.insert(0, {tests!r})
import pytorch_lightning as pl, torch
from test_learner import learner
if __name__ == "__main__":
    torch.set_num_threads(1)
    module = learner("steps=8", "samples=4")
    pl.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
               enable_progress_bar=False).fit(module)
    if module.trainer.global_rank == 0:
        e = module.explanation()
        torch.save({{"parameter": e.parameter, "total": e.curves["total"], "passes": e.passes}}, {out!r})
"""


@pytest.mark.slow  # two interpreters under DDP; tests/runs/test_workers.py spreads the samples of a run
def test_two_ranks_share_the_samples(tmp_path):
    """Each rank draws its part of the samples, so that the averaged gradient is that of all."""
    script, out, here = tmp_path / "ddp.py", tmp_path / "out.pt", Path(__file__).parent
    script.write_text(DDP.format(tests=str(here), out=str(out)))
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "SLURM"))} | {"PYTHONPATH": path}
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr
    shared, alone = torch.load(out, weights_only=True), library("steps=8", "samples=4")
    torch.testing.assert_close(shared["parameter"], alone.parameter, atol=1e-4, rtol=0)
    torch.testing.assert_close(shared["total"], alone.curves["total"], atol=1e-4, rtol=0)
    assert shared["passes"].tolist() == [32, 32]  # of 64, two in each step: each rank runs half of the samples


def test_samples_that_do_not_divide_are_refused():
    module = learner("steps=2", "samples=3")
    cpu_trainer().fit(module)
    with pytest.raises(ValueError, match="samples=3 cannot be divided among 2 devices"):
        module.row_batch.objective.share_samples(0, 2)
