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
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision.models import VisionTransformer

from mpx.learning.batch import RowBatch
from mpx.learning.continuous import ContinuousBatch
from mpx.learning.loop import optimize
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.models.classifier import Classifier
from mpx.operators import unwrap
from mpx.perturbations.tokens import token_drop

aten = torch.ops.aten
DEVICE = torch.device("meta")
SIDE = 64  # px of the images: the fewest that every preset's blurs and wavelets fit into
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "unique_consecutive")
FREE = ("detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "view", "resize_", "set_")


class Counts(NamedTuple):
    """Of one iteration."""

    reads: int
    copies: int
    kernels: int


class Pretended(Tensor):
    """A tensor on the pretended device; `values` are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "Pretended":
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's own, without a type
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype, device=DEVICE
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
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
        goes_to_host = bool(on_device) and place is not None and not makes_on_device
        self._check(function, name, args, given, on_device)
        if goes_to_host or on_device and (name in READS or _has_boolean_index(name, args)):
            self._add("reads", name)
        elif given and not on_device and makes_on_device:
            self._add("copies", name)
        if makes_on_device:
            kwargs = kwargs | {"device": torch.device("cpu")}
        result = function(*tree_map_only(Pretended, _values, args), **tree_map_only(Pretended, _values, kwargs))
        if goes_to_host or not (on_device or makes_on_device):
            return result
        if on_device and not (function.is_view or name in (*FREE, *READS)) or makes_on_device and not given and "empty" not in name:
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
        floats = {str(tensor.dtype) for tensor in on_device if tensor.is_floating_point() and tensor.ndim}
        if len(floats) > 1 and name not in ("_to_copy", "copy_"):
            self.mistakes.add(f"{function} mixes {' and '.join(sorted(floats))}")

    def _add(self, kind: str, name: str) -> None:
        self.operations.append((kind, name))


def _values(tensor: Pretended) -> Tensor:
    return tensor.values


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
    """Return a classifier of five classes for images of SIDE pixels: a transformer where a method drops tokens."""
    torch.manual_seed(0)
    if unwrap(method.perturbation) is token_drop:
        network: nn.Module = VisionTransformer(SIDE, 16, 1, 2, 16, 16, num_classes=5)
        nn.init.normal_(network.heads.head.weight)  # torchvision begins with zeros
    else:
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return Classifier(network.eval())


def make_batch(method: Method, classifier: Classifier, rows: int, device: torch.device) -> RowBatch:
    """Return a batch of random images. The classifier is frozen, and on the device."""
    images = torch.rand(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    targets = torch.arange(rows, device=device) % 5
    areas = None if method.areas[0] is None else torch.full((rows,), method.areas[0], device=device)
    objective = Objective(method, classifier, images, targets, [""] * rows, areas)
    return ContinuousBatch(objective, 2) if method.stop else RowBatch(objective, 2)


def counted(method: Method, rows: int) -> tuple[list[Counts], set[str]]:
    """Return the counts of each iteration, and the mistakes."""
    classifier = tiny_network(method)
    with pretended_device() as dispatches, classifier.frozen():
        for module in classifier.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = on_device(tensor)
        batch = make_batch(method, classifier, rows, DEVICE)
        dispatches.take()
        iterations: list[Counts] = []
        optimize(batch, lambda _: iterations.append(dispatches.take()))
    return iterations, dispatches.mistakes
