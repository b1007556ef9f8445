"""Classifier: any network as a function from images in [0,1] to the output (B,...) of its task, e.g. logits (B, classes).

It normalises inside and carries the preprocessing and the class names that belong to the network. The user's network stays
as it is: construction moves and changes nothing, `frozen()` restores every mode and flag, and input tensors stay unwritten.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mpx.data.preprocessing import Preprocess
from mpx.errors import first_line
from mpx.models.folding import fold, fold_pair, unfold_pair
from mpx.models.freezing import exclusive_access, frozen_parameters
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION


class Classifier(nn.Module):
    """A network with its normalisation, preprocessing and class names.

    mean, std: one number or one per colour, for images in [0,1]. categories: a name per class, in the order of the logits.
    name: for tables and messages; None takes the network's class name. task: what of the output is explained.
    """

    scale: Tensor  # (1,3,1,1), 1/std
    shift: Tensor  # (1,3,1,1), -mean/std

    def __init__(
        self,
        network: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        preprocess: Preprocess | None = None,
        categories: Sequence[str] | None = None,
        name: str | None = None,
        task: Task = CLASSIFICATION,
    ):
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        categories = task.categories or categories
        self.categories = None if categories is None else tuple(categories)
        self.task = task
        self.name = name or type(network).__name__
        self._folded: dict[nn.Module, nn.Module] = {}  # convolution -> its batch norm
        self._compiled: tuple[Callable[[Tensor], Tensor], ...] = ()  # a tuple: a module cannot be its own submodule
        self._freezings = 0  # `frozen` contexts that are open
        means, stds = _per_colour(mean), _per_colour(std)
        if any(values.numel() not in (1, 3) for values in (means, stds)) or not (stds > 0).all():
            raise ValueError(f"mean={means.tolist()}, std={stds.tolist()}: each must be one number or three, std above 0")
        device = _device(network) or torch.empty(0).device
        for key, values in (("scale", 1 / stds), ("shift", -means / stds)):
            values = values.float().expand(3).reshape(1, 3, 1, 1).to(device)
            self.register_buffer(key, values, persistent=False)  # the state dict stays the network's

    @property
    def device(self) -> torch.device:
        """The device of the network's first parameter or buffer."""
        return _device(self.network) or self.scale.device

    @property
    def folded(self) -> dict[nn.Module, nn.Module]:
        """The convolutions that compute their batch norm at present, with it: see mpx.models.folding."""
        return dict(self._folded)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B,C,H,W) in [0,1] to the output of the task, (B, classes) in a classification."""
        raw = self.network(torch.addcmul(self.shift, x, self.scale))  # a new tensor: in-place first layers are harmless
        out = self.task.output(raw, len(x))
        classes = self.task.class_count(out)
        if self.categories is not None and classes is not None and len(self.categories) != classes:
            raise ValueError(f"{len(self.categories)} category names do not fit a model of {classes} classes")
        return out

    def with_task(self, task: Task) -> "Classifier":
        """Return this classifier of the same network with another task, whose outputs may have names of their own."""
        twin = copy.copy(self)
        twin.task, twin._folded = task, {}
        twin.categories = task.categories or self.categories
        return twin

    @contextmanager
    def frozen(self) -> Iterator["Classifier"]:
        """Set eval mode without parameter gradients; on leaving restore every module's mode and every parameter's flag.

        Another thread that freezes the same network waits. One freezing may lie within another.
        """
        if any(tensor.is_inference() for tensor in (*self.parameters(), *self.buffers())):
            raise ValueError(
                f"model {self.name} was built under inference_mode, which no gradient can pass: build it outside, or "
                "under no_grad"
            )
        with exclusive_access(self), frozen_parameters(self):
            self._freezings += 1
            try:
                yield self
            finally:
                self._freezings -= 1
                if self._compiled and not self._freezings:
                    self._compiled = ()
                    torch._dynamo.reset()  # compiled code holds the folded network

    @contextmanager
    def frozen_and_folded(self, size: Sequence[int] | None = None) -> Iterator["Classifier"]:
        """As `frozen`, with batch norms folded into convolutions: for many images of one size (H,W).

        size: by default the size that the preprocessing gives; nothing is folded where that is unknown.
        """
        if size is None and self.preprocess is not None:
            size = self.preprocess.crop
        with self.frozen():
            pairs = {} if size is None else fold(self, self.device, size)
            self._folded |= pairs
            try:
                yield self
            finally:
                self.unfold(pairs)

    def unfold(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Undo the folding of these modules, by default of all; modules that are not folded stay as they are."""
        for module in tuple(self._folded if modules is None else modules):
            if norm := self._folded.pop(module, None):
                unfold_pair(module, norm)

    @contextmanager
    def unfolded(self, modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
        """Undo the folding of these modules, by default of all, and fold them again on leaving."""
        pairs = {m: self._folded[m] for m in (self._folded if modules is None else modules) if m in self._folded}
        self.unfold(pairs)
        try:
            yield
        finally:
            for conv, norm in pairs.items():
                fold_pair(conv, norm)
            self._folded |= pairs

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """Return the classifier, compiled at the first call of each shape; valid until the outermost `frozen` ends."""
        if not self._compiled:
            self._compiled = (torch.compile(self),)

        def call(x: Tensor) -> Tensor:
            try:
                return self._compiled[0](x)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise ValueError(
                    f"compile=true: {self.name} cannot be compiled here ({first_line(error)}): set compile=false"
                ) from error

        return call


def _device(network: nn.Module) -> torch.device | None:
    first = next(network.parameters(), next(network.buffers(), None))
    return None if first is None else first.device


def _per_colour(values: float | Sequence[float]) -> Tensor:
    return torch.tensor(values if isinstance(values, (int, float)) else list(values), dtype=torch.float64)
