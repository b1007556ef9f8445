"""Hydra's own options: how it logs, and the repetition of a stored job. In processes, as logging is of a whole process."""

import pytest
from commands import PLAIN, done, masks, workplace

LINE = [*PLAIN, "steps=2", "logger=[]", "metric=[]"]


@pytest.mark.parametrize(
    "options, is_silent, has_log",
    [
        (["hydra/job_logging=disabled"], True, False),
        (["hydra/job_logging=stdout"], False, False),
        (["hydra/job_logging=none"], False, False),
        (["hydra/hydra_logging=disabled", "hydra.verbose=true"], False, True),
    ],
)
def test_hydra_chooses_what_is_logged(tmp_path, options, is_silent, has_log):
    done(workplace(tmp_path, 1), *LINE, *options, "name=a")
    run = tmp_path / "outputs/a"
    assert len(masks(run)) == 1 and (run / "run.log").exists() == has_log
    command = done(tmp_path, *LINE, *options, "name=b")
    assert (not command.out) == is_silent and not command.err


def test_a_stored_job_is_run_again(tmp_path):
    stores = "+hydra.callbacks.pickle._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
    done(workplace(tmp_path, 1), *LINE, "name=a", stores, "hydra.output_subdir=job")
    found = masks(tmp_path / "outputs/a")
    for mask in (tmp_path / "outputs/a/masks").iterdir():
        mask.unlink()
    done(tmp_path, "--experimental-rerun", "outputs/a/job/config.pickle")
    assert masks(tmp_path / "outputs/a").keys() == found.keys()
