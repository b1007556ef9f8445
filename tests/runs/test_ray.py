"""launch=ray with actors that are threads of this process: what is sent to and fro. Real clusters: slow/test_ray_runs.py."""

import csv
import pickle
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import pytest
from commands import SAME, masks, whole, workplace

from mpx.runs.fingerprint import Fingerprint

pytest.importorskip("ray")
LINE = [*SAME, "pictures=1", "metric=[]", "steps=3"]
ON_RAY = [*LINE, "launch=ray", "name=ray"]


class Actor:
    """A worker without Ray. dies(image names): whether it does so at a call that gives it these images."""

    def __init__(self, worker, dies):
        self.worker, self.dies, self.exchange = worker, dies, self

    def remote(self, answer):
        call = Future()
        Thread(target=self._exchange, args=(call, answer), daemon=True).start()
        return SimpleNamespace(future=lambda: call)

    def _exchange(self, call, answer):
        from ray.exceptions import ActorDiedError

        images = pickle.loads(answer) if answer else []
        if isinstance(images, list) and self.dies({image.item.name for image, _ in images}):
            call.set_exception(ActorDiedError())
        else:
            call.set_result(self.worker.exchange(answer))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return workplace(tmp_path, 3)


@pytest.fixture
def cluster(monkeypatch):
    """start(cpus, dies): let launch=ray find such a cluster."""
    from mpx.runs import ray_cluster

    def start(cpus=1, dies=lambda images: False):
        new = lambda worker: SimpleNamespace(remote=lambda *arguments: Actor(worker(*arguments), dies))  # noqa: E731
        fake = SimpleNamespace(remote=lambda **_: new, kill=lambda actor: None, cluster_resources=lambda: {"CPU": cpus})
        monkeypatch.setattr(ray_cluster, "ray", fake)

    monkeypatch.setattr(ray_cluster, "_connected", lambda arguments: nullcontext())
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.05)
    return start


def test_photos_that_a_machine_lacks_are_sent_and_the_run_is_that_of_one_process(mpx, home, cluster, monkeypatch):
    (home / "photos" / "p9.png").write_bytes(b"no picture")
    assert mpx(*LINE, "name=one")[0] == 3
    from mpx.runs.ray_cluster import RayWorkers

    sent, read = [], RayWorkers._read
    with monkeypatch.context() as patch:
        patch.setattr("mpx.runs.ray_worker.digest_file", lambda path: {"sha256": "of another file"})
        patch.setattr(RayWorkers, "_read", lambda self, index: sent.append(index) or read(self, index))
        cluster(cpus=2)
        code, out, err = mpx(*ON_RAY)
    assert code == 3 and out.count("has joined") == 2 and sorted(sent) == [0, 1, 2, 3], err
    one, ray = home / "outputs" / "one", home / "outputs" / "ray"
    assert masks(ray) == masks(one) and len(masks(one)) == 3
    assert (ray / "skipped.csv").read_text() == (one / "skipped.csv").read_text()
    tables = [list(csv.DictReader((run / "results.csv").open())) for run in (one, ray)]
    assert all(a | {"seconds": ""} == b | {"seconds": ""} for a, b in zip(*tables))
    for name in ("panels/p00-1-checker-board.png", "evolution/p00-1-checker-board.webp"):
        assert (ray / name).read_bytes() == (one / name).read_bytes()
    whole(ray)
    before = {path: path.stat().st_mtime_ns for path in (ray / "masks").iterdir()}
    assert mpx(*LINE, "name=ray")[0] == 3  # without Ray: the rows are those of today's photos
    assert {path: path.stat().st_mtime_ns for path in (ray / "masks").iterdir()} == before


def test_an_image_that_kills_its_workers_ends_the_run_by_name(mpx, home, cluster):
    cluster(dies=lambda images: "p02" in images)
    code, out, err = mpx(*ON_RAY, "batch_size=1")
    assert code == 1 and "3 workers died while they explained p02" in err and err.count("\n") == 1
    assert out.count("a worker died") == 3 and set(masks(home / "outputs" / "ray")) == {
        "p00-1-checker-board",
        "p01-1-checker-board",
    }


def test_workers_that_die_as_they_start_end_the_run(mpx, home, cluster):
    cluster(cpus=2, dies=lambda images: not images)
    code, out, err = mpx(*ON_RAY)
    assert code == 1 and "6 workers died before they claimed an image" in err and err.count("\n") == 1
    assert "joined" not in out


def test_images_of_a_worker_that_died_are_claimed_again(mpx, home, cluster):
    deaths = iter([True, True, False])
    cluster(dies=lambda images: "p01" in images and next(deaths, False))
    code, out, err = mpx(*ON_RAY, "batch_size=1")
    assert code == 0 and out.count("a worker died") == 2 and out.count("has joined") == 3, err
    assert len(masks(home / "outputs" / "ray")) == 3


@pytest.mark.parametrize(
    "part, named", [("configuration", "such as the network's code"), ("versions", "install the same on both")]
)
def test_a_machine_with_another_network_or_version_is_refused(mpx, home, cluster, monkeypatch, part, named):
    cluster()
    other = SimpleNamespace(of=lambda plan: replace(Fingerprint.of(plan), **{part: "another"}))
    monkeypatch.setattr("mpx.runs.ray_worker.Fingerprint", other)
    code, _, err = mpx(*ON_RAY)
    assert code == 1 and named in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "override, named",
    [
        ("trainer.devices=[0,1]", "trainer.devices=[0, 1] must be a number from 1, or all"),
        ("device=mps", "device='mps' must be auto, cpu or cuda"),
        ("share=0/2", "share 0 of 2"),
        ("parallel=samples", "parallel=samples"),
        ("launch.address=127.0.0.1:1", "launch.address=127.0.0.1:1: no Ray cluster is reached there"),
    ],
)
def test_what_cannot_be_is_one_sentence(mpx, home, override, named):
    code, _, err = mpx(*ON_RAY, override)
    assert code == 1 and named in err and err.count("\n") == 1
    assert not (home / "outputs" / "ray").exists()


def test_without_ray_the_extra_is_named(mpx, home, monkeypatch):
    monkeypatch.setattr("mpx.runs.checks.find_spec", lambda name: None)
    code, _, err = mpx(*ON_RAY)
    assert code == 1 and err == "mpx: launch=ray needs Ray: pip install 'mpx[ray]'\n"
