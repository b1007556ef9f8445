"""Classifier: any network as a function from images in [0,1] to the output (B,...) of its task, e.g. logits (B, classes).

It normalises inside and carries the preprocessing and the class names that belong to the network. The user's network stays
as it is: construction moves and changes nothing, `frozen()` restores every mode and flag, and input tensors stay unwritten.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpx.data.images import GREY, RGB
from mpx.data.preprocessing import Preprocess
from mpx.errors import first_line
from mpx.models.folding import Replaced, fold, fold_pair, replace_norm, restore
from mpx.models.freezing import exclusive_access, frozen_parameters
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION


class Classifier(nn.Module):
    """A network with its normalisation, preprocessing and class names.

    mean, std: one number or one per channel, for images in [0,1]. categories: a name per class, in the order of the logits.
    name: for tables and messages; None takes the network's class name. task: what of the output is explained. channels: of
    the input; None: as many as mean or std has, else as the network's first convolution, else those of RGB. bands: the
    channels, from 0, that pictures show as red, green and blue; None: the first three, or the first as grey.
    embed_texts: from texts to embeddings (N,D), of a network that embeds images, to compare with.
    """

    scale: Tensor  # (1,C,1,1), 1/std; (1,1,1,1) where neither channels= nor mean and std say C
    shift: Tensor  # the same of -mean/std

    def __init__(
        self,
        network: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        preprocess: Preprocess | None = None,
        categories: Sequence[str] | None = None,
        name: str | None = None,
        task: Task = CLASSIFICATION,
        channels: int | None = None,
        bands: int | Sequence[int] | None = None,
        embed_texts: Callable[[list[str]], Tensor] | None = None,
    ):
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        categories = task.categories or categories
        self.categories = None if categories is None else tuple(categories)
        self.task = task.with_categories(self.categories)
        self.embed_texts = embed_texts
        self.name = name or type(network).__name__
        self._replaced: Replaced = {}  # modules that compute otherwise at present
        self._compiled: dict[Callable, Callable] = {}  # function -> the same, compiled
        self._freezings = 0  # `frozen` contexts that are open
        self.compared: tuple[Classifier, ...] = task.compared_models()  # in a tuple: its layers are none of this model's
        means, stds = _per_channel(mean), _per_channel(std)
        declared = _declared_channels(channels, means, stds)
        device = _device(network) or torch.empty(0).device
        for key, values in (("scale", 1 / stds), ("shift", -means / stds)):
            values = values.float().expand(declared or 1).reshape(1, -1, 1, 1).to(device)
            self.register_buffer(key, values, persistent=False)  # the state dict stays the network's
        self.channels = declared or _convolved_channels(network) or RGB
        self.bands = check_bands(bands, self.channels)

    @property
    def device(self) -> torch.device:
        """The device of the network's first parameter or buffer."""
        return _device(self.network) or self.scale.device

    @property
    def folded(self) -> dict[nn.Module, nn.Module]:
        """The convolutions that compute their batch norm at present, with it: see mpx.models.folding."""
        return {conv: norm for conv, norm in self._replaced.items() if norm is not None}

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B,C,H,W) in [0,1] to the output of the task, (B, classes) in a classification."""
        out = self.task.output(self.raw_output(x), len(x))
        if not out.is_floating_point() or out.is_meta != x.is_meta or out.layout is not torch.strided or not out.numel():
            form = f"{out.device} {out.layout}" if out.is_floating_point() else out.dtype
            kind = form if out.numel() else "nothing"
            raise ValueError(f"model {self.name} gives {kind} for an image, and its output must be real numbers")
        for other in self.compared:
            out = self.task.join(out, other(x))
        classes = self.task.class_count(out)
        if self.categories is not None and classes is not None and len(self.categories) != classes:
            raise ValueError(f"{len(self.categories)} category names do not fit a model of {classes} classes")
        return out

    def raw_output(self, x: Tensor) -> Any:
        """Return what the network gives for images (B,C,H,W) in [0,1]."""
        return self.network(torch.addcmul(self.shift, x, self.scale))  # a new tensor: in-place first layers are harmless

    def with_task(self, task: Task) -> "Classifier":
        """Return this classifier of the same network with another task, whose outputs may have names of their own."""
        twin = copy.copy(self)
        with self.frozen():
            twin.task, twin._replaced, twin._freezings = task.for_model(self), {}, 0
        twin.categories = task.categories or self.categories
        twin.task = twin.task.with_categories(twin.categories)
        twin.compared = task.compared_models()
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Classifier":
        """Move the model that the task compares with, too."""
        for other in self.compared:
            other._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @contextmanager
    def frozen(self) -> Iterator["Classifier"]:
        """Set eval mode without parameter gradients; on leaving restore every module's mode and every parameter's flag.

        Another thread that freezes the same network waits. One freezing may lie within another. A model that the task
        compares with is frozen too, on this one's device.
        """
        if any(tensor.is_inference() for tensor in (*self.parameters(), *self.buffers())):
            raise ValueError(
                f"model {self.name} was built under inference_mode, which no gradient can pass: build it outside, or "
                "under no_grad"
            )
        with exclusive_access(self, *self.compared), frozen_parameters(self), ExitStack() as compared:
            self._freezings += 1
            try:
                for other in self.compared:
                    compared.callback(other.to, other.device)
                    compared.enter_context(other.to(self.device).frozen())
                yield self
            finally:
                self._freezings -= 1
                if not self._freezings:
                    self.unfold()
                    if self._compiled:
                        self._compiled = {}
                        torch._dynamo.reset()  # compiled code holds the folded network

    @contextmanager
    def frozen_and_folded(self, images: Tensor) -> Iterator["Classifier"]:
        """As `frozen`, with batch norms folded into convolutions: for many images of the size of images (B,C,H,W)."""
        with self.frozen():
            if sentence := self.fold(images[:1]):
                warnings.warn(sentence, stacklevel=3)
            yield self

    def fold(self, image: Tensor) -> str:
        """Fold batch norms, and replace other norms, until the outermost `frozen` ends: see mpx.models.folding.

        image: (1,C,H,W), whose output must stay the same. Nothing happens where norms are folded or replaced already.
        Return a sentence that says why none are folded, or an empty string.
        """
        assert self._freezings, "only a frozen network can be folded"
        for other in self.compared:
            other.fold(image)
        if self._replaced:
            return ""
        self._replaced, change = fold(self, image.to(self.device), self.task.comparable)
        if not change:
            return ""
        return (
            f"the batch norms of model {self.name} are not folded into its convolutions, so each pass takes longer: folding "
            f"changes the output for this image by {change:.2%} of its largest number"
        )

    def unfold(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Undo the folding of these modules, whose norms get right gradients; by default undo all that `fold` has done."""
        if modules is None:
            restore(self._replaced)
            self._replaced = {}
            return
        for module in modules:
            if norm := self._replaced.get(module):
                restore({module: self._replaced.pop(module)})
                self._replaced[norm] = None
                replace_norm(norm)

    @contextmanager
    def unfolded(self) -> Iterator[None]:
        """Let all modules compute as their classes do, and fold and replace them again on leaving."""
        replaced = self._replaced
        self.unfold()
        try:
            yield
        finally:
            self._replaced = replaced
            for module, norm in replaced.items():
                fold_pair(module, norm) if norm else replace_norm(module)

    def compiled(self, function: Callable) -> Callable:
        """Return a function that runs this network, compiled at the first call of each shape, until `frozen` ends."""
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, dynamic=False, mode="reduce-overhead")

        def call(*arguments: Any) -> Any:
            try:
                return self._compiled[function](*arguments)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise ValueError(
                    f"compile=true: {self.name} cannot be compiled here ({first_line(error)}): set compile=false"
                ) from error

        return call


def _device(network: nn.Module) -> torch.device | None:
    first = next(network.parameters(), next(network.buffers(), None))
    return None if first is None else first.device


def check_bands(bands: int | Sequence[int] | None, channels: int) -> tuple[int, ...] | None:
    """Return the channels that pictures show, or raise ValueError where the model has no such channels."""
    if bands is None:
        return None
    bands = list(bands) if isinstance(bands, Sequence) else [bands]
    if len(bands) not in (GREY, RGB) or any(type(band) is not int or not 0 <= band < channels for band in bands):
        raise ValueError(f"bands={bands} must be one or three channels from 0 to {channels - 1}")
    return tuple(bands)


def _per_channel(values: float | Sequence[float]) -> Tensor:
    return torch.tensor(values if isinstance(values, (int, float)) else list(values), dtype=torch.float64)


def _declared_channels(channels: int | None, means: Tensor, stds: Tensor) -> int | None:
    """Return the channels that the arguments of a Classifier name, or None where all are single numbers."""
    if channels is not None and (type(channels) is not int or channels < 1):
        raise ValueError(f"channels={channels!r} must be a whole number, at least 1")
    counts = {values.numel() for values in (means, stds) if values.ndim} | ({channels} if channels else set())
    count = channels or max(counts, default=None)
    if count == 0 or not counts <= {1, count} or not (stds > 0).all():
        raise ValueError(
            f"mean={means.tolist()}, std={stds.tolist()}: each must be one number, or one per channel"
            f"{f' (there are {count})' if count else ''}, std above 0"
        )
    return count


def _convolved_channels(network: nn.Module) -> int | None:
    """Return the input channels of the first convolution."""
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), None)
