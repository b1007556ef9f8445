"""What an iteration asks of an accelerator, counted on a machine without one.

`pretended_device()` makes torch compute on the CPU with tensors that say they lie on an accelerator. Its device is `meta`,
the only one without a driver on which gradients flow. It counts, for each iteration:

reads     values that the host waits for: item, tolist, nonzero, indexing by booleans, copies to the host
copies    tensors that are made on the host and brought to the device
kernels   operations on the device that compute or move numbers; views and empty tensors are none

and lists as `mistakes` the operations whose tensors lie on two devices, or have two floating-point types.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision.models import VisionTransformer

from mpx import config
from mpx.learning.batch import RowBatch
from mpx.learning.continuous import ContinuousBatch
from mpx.learning.fitting import fit, quiet_lightning
from mpx.learning.frank_wolfe import FrankWolfe
from mpx.learning.learner import SilentCallback
from mpx.learning.loop import optimize
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.optimizers import LineSearch
from mpx.learning.outcome import to_explanation
from mpx.learning.rows import Row
from mpx.models.classifier import Classifier
from mpx.operators import unwrap
from mpx.perturbations.tokens import token_drop

DEVICE = torch.device("meta")
SIZES = (1, 2, 5)  # rows of a batch
SIDE = 64  # px of the images: the fewest that every preset's blurs and wavelets fit into
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
FREE = ("detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "view", "resize_", "set_")


class Counts(NamedTuple):
    """Of one iteration."""

    reads: int
    copies: int
    kernels: int


class Pretended(Tensor):
    """A tensor on the pretended device, whose numbers are `on_cpu`."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "Pretended":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.on_cpu = values
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without cls
        cls, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        raise RuntimeError(f"{function} runs outside pretended_device()")


class Dispatches(TorchDispatchMode):
    """Runs every operation on the CPU, and counts those of each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.mistakes: set[str] = set()
        self.operations: list[tuple[str, str]] = []  # (kind of Counts, name), since the last `take`

    def take(self) -> Counts:
        """Return the counts since the last call."""
        kinds = [kind for kind, _ in self.operations]
        self.operations = []
        return Counts(*map(kinds.count, Counts._fields))

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in given if isinstance(tensor, Pretended)]
        place = kwargs.get("device")
        makes_on_device = place is not None and torch.device(place) == DEVICE
        is_copy = bool(given) and not on_device
        goes_to_host = bool(on_device) and place is not None and not makes_on_device
        self._check(function, name, args, given, on_device)
        if goes_to_host or on_device and (name in READS or _has_boolean_index(name, args)):
            self._add("reads", name)
        elif is_copy and makes_on_device:
            self._add("copies", name)
        if makes_on_device:
            kwargs = kwargs | {"device": torch.device("cpu")}
        result = function(*tree_map_only(Pretended, _values, args), **tree_map_only(Pretended, _values, kwargs))
        if goes_to_host or not (on_device or makes_on_device):
            return result
        if not (is_copy or function.is_view or name in (*FREE, *READS) or "empty" in name):
            self._add("kernels", name)
        return return_and_correct_aliasing(function, args, kwargs, tree_map_only(Tensor, Pretended, result))

    def _check(self, function: Any, name: str, args: Sequence, given: list[Tensor], on_device: list[Pretended]) -> None:
        """Count what crosses between host and device, and note operations that torch refuses on a real device."""
        on_host = [tensor for tensor in given if not isinstance(tensor, Pretended)]
        if on_device and on_host:
            if name == "copy_":
                self._add("copies" if isinstance(args[0], Pretended) else "reads", name)
            elif name in ("index", "index_put_"):
                self._add("copies", name)
            elif any(tensor.ndim for tensor in on_host):
                self.mistakes.add(f"{function} has tensors on {DEVICE} and on the CPU")
        floats = {str(tensor.dtype) for tensor in given if tensor.is_floating_point() and tensor.ndim}
        if len(floats) > 1 and name not in ("_to_copy", "copy_"):
            self.mistakes.add(f"{function} mixes {' and '.join(sorted(floats))}")

    def _add(self, kind: str, name: str) -> None:
        self.operations.append((kind, name))


def _values(tensor: Pretended) -> Tensor:
    return tensor.on_cpu


def _has_boolean_index(name: str, args: Sequence) -> bool:
    indices = args[1] if name.startswith(("index", "_index_put")) and len(args) > 1 and isinstance(args[1], list) else []
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


class HostData(TorchFunctionMode):
    """Brings Python numbers to the device and back by way of the host, as torch does for a real accelerator."""

    def __torch_function__(self, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return function(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if function is Tensor.new_tensor and isinstance(args[0], Pretended):
            return torch.tensor(args[1], **{"dtype": args[0].dtype} | kwargs).to(DEVICE)
        if function in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], Pretended):
            return function(args[0].cpu())
        return function(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[Dispatches]:
    """Within this context `DEVICE` computes. Random numbers are those of the CPU."""
    make_generator = torch.Generator
    with mock.patch.object(torch, "Generator", lambda device="cpu": make_generator()), Dispatches() as counts, HostData():
        yield counts


def tiny_network(method: Method) -> Classifier:
    """Return a classifier of six classes for images of SIDE pixels: a transformer where a method drops tokens."""
    torch.manual_seed(0)
    if unwrap(method.perturbation) is token_drop:
        network: nn.Module = VisionTransformer(SIDE, 16, 1, 2, 16, 16, num_classes=6)
        *_, weight, _ = network.parameters()
        nn.init.normal_(weight)  # of the last layer, which torchvision begins with zeros
    else:
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    return Classifier(network.eval())


def make_batch(method: Method, classifier: Classifier, rows: int, device: torch.device) -> RowBatch:
    """Return a batch of random images. The classifier is frozen, and on the device."""
    images = torch.rand(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    targets = torch.arange(rows, device=device) % 6
    areas = None if method.areas[0] is None else torch.full((rows,), method.areas[0], device=device)
    objective = Objective(method, classifier, images, targets, [""] * rows, areas)
    return ContinuousBatch(objective, 2) if method.stop else RowBatch(objective, 2)


def counted(method: Method, rows: int, device: torch.device = DEVICE, ages: int = 1) -> tuple[list[Counts], set[str]]:
    """Return the counts of each iteration, and the mistakes of search and evaluation. ages: 2 for rows at two iterations."""
    classifier = tiny_network(method)
    with pretended_device() as dispatches, classifier.to(device).frozen():
        batch = make_batch(method, classifier, rows, device)
        if ages > 1:
            other = make_batch(method, classifier, rows, device)
            for row in other.rows:
                row.iteration += 1
            batch = ContinuousBatch.gather([*batch.rows, *other.rows])
        dispatches.take()
        iterations: list[Counts] = []
        optimize(batch, lambda _: iterations.append(dispatches.take()))
        to_explanation(batch.objective, batch.rows, [Row(image, 0, "") for image in batch.objective.images])
    return iterations, dispatches.mistakes


def counted_fit(method: Method, **arguments: Any) -> list[Counts]:
    """Return the counts of each iteration of a fit by Lightning. arguments: of its Trainer."""
    classifier = tiny_network(method)
    strategy = SingleDeviceStrategy(DEVICE, accelerator=CPUAccelerator())
    iterations: list[Counts] = []
    is_welcome = mock.patch.object(CPUAccelerator, "setup_device", lambda *_: None)  # it refuses devices but the CPU
    with pretended_device() as dispatches, classifier.to(DEVICE).frozen(), is_welcome, quiet_lightning():
        batch = make_batch(method, classifier, 2, DEVICE)

        class Counting(SilentCallback):
            def on_train_batch_end(self, *_: Any) -> None:
                iterations.append(dispatches.take())

        off: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        fit(batch, pl.Trainer(max_epochs=1, callbacks=[Counting()], strategy=strategy, **off, **arguments))
    return iterations


def dispatch(overrides: list[str]) -> None:
    """Print a table of the counts of an iteration, the second, which begins nothing."""
    print("| | reads | copies | kernels, 1 image | 2 images | 5 images |\n|---|---|---|---|---|---|")
    for preset in ("default", *config.options("experiment")):
        method = small_method(preset, *overrides)
        counts = [counted(method, rows)[0][1] for rows in SIZES]
        print(f"| {preset} | {counts[-1].reads} | {counts[-1].copies} | {' | '.join(str(c.kernels) for c in counts)} |")


def small_method(preset: str, *overrides: str) -> Method:
    """Return a preset's method with few draws, in one pass for all rows, and at most one backtrack of a line search."""
    chosen = [] if preset == "default" else [f"experiment={preset}"]
    method = config.build_method(config.compose(*chosen, "steps=3", *overrides))
    few: dict[str, Any] = {"samples": min(method.samples, 2)}
    if method.gradient:
        few["gradient"] = partial(method.gradient, ig_steps=2)
    if unwrap(method.optimizer) in (LineSearch, FrankWolfe):
        few["optimizer"] = partial(method.optimizer, max_backtracks=1)
    return replace(method, **few)
