"""What only a GPU can show: pytest -m gpu. MPX_REHEARSAL=1 runs the same code on the CPU."""

import os
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from dispatch import SIDE, make_batch, small_method, tiny_network

from mpx import explain
from mpx.learning.loop import optimize

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if HAS_GPU else torch.device("cpu")
OTHER = torch.device("cuda", 1) if torch.cuda.device_count() > 1 else DEVICE
IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
pytestmark = [
    pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU and "MPX_REHEARSAL" not in os.environ, reason="there is no GPU here"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def exact_products():
    """Without TensorFloat-32, whose products have eleven bits."""
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def no_waiting():
    """Raise where the host waits for the GPU."""
    if HAS_GPU:
        torch.cuda.set_sync_debug_mode("error")
    yield
    if HAS_GPU:
        torch.cuda.set_sync_debug_mode("default")


def masks(device: torch.device, *overrides: str) -> torch.Tensor:
    method = small_method("default", "steps=8", *overrides)
    classifier = tiny_network(method).to(device)
    return explain(classifier, IMAGES, 0, method=method).parameter.cpu()


def test_the_default_equals_the_cpus():
    """But for noise and flips, of which each kind of device draws its own."""
    without_draws = ("noise=0", "flip=0")
    torch.testing.assert_close(masks(DEVICE, *without_draws), masks(torch.device("cpu"), *without_draws), atol=1e-3, rtol=0)


def test_two_devices_agree():
    torch.testing.assert_close(masks(DEVICE), masks(OTHER), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["default", "quick", "extremal2019", "fong2017"])
def test_no_iteration_waits(preset):
    method = small_method(preset, "steps=4")
    classifier = tiny_network(method).to(DEVICE)
    with classifier.frozen():
        batch = make_batch(method, classifier, 3, DEVICE)
        optimize(make_batch(method, classifier, 3, DEVICE))  # what is loaded and chosen at the first iteration
        with no_waiting():
            optimize(batch)


def test_memory_does_not_grow_from_batch_to_batch():
    method = replace(small_method("default"), steps=2)
    classifier = tiny_network(method).to(DEVICE)
    peaks = []
    for _ in range(6):
        if HAS_GPU:
            torch.cuda.reset_peak_memory_stats()
        explain(classifier, IMAGES, 0, method=method)
        peaks.append(torch.cuda.max_memory_allocated() if HAS_GPU else 0)
    assert peaks[1] == peaks[-1]
