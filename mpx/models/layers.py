"""A layer inside the network: which module it is, its output as a map, and patching that output while the network runs.

A layer is a module of the network, given by its dotted name. Its output is a map (B,C,h,w) or (B,h,w,C), or a sequence of
tokens (B,N,C) whose last n*n tokens, the largest square, are the map; a class token stays as it is. Hooks are registered
only while the network runs.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import ModuleList, Sequential

from mpx.errors import near_matches
from mpx.models.classifier import Classifier

Value = TypeVar("Value")
MapShape = tuple[int, tuple[int, int]]  # number of dimensions of a module's output, (h,w) of its map
_cache: WeakKeyDictionary[nn.Module, tuple[list, dict]] = WeakKeyDictionary()  # classifier -> (its weights' state, values)


class Layer:
    """A module of the network whose output is read and patched as a map (B,C,h,w).

    name: dotted name in the user's network; None chooses by `default_layer`. min_map_fraction: for that choice.
    images: (B,C,H,W), for their size. group: the configuration group of the option `layer`, for messages.
    """

    def __init__(
        self,
        classifier: Classifier,
        name: str | int | None,
        min_map_fraction: float,
        images: Tensor,
        group: str = "perturbation",
    ):
        if name is None and not 0 < min_map_fraction <= 1:
            raise ValueError(f"{group}.min_map_fraction={min_map_fraction} must be above 0 and at most 1")
        self.classifier = classifier
        self.size = (images.shape[2], images.shape[3])
        layer = None if name is None else str(name)  # modules of a Sequential are numbered

        def find() -> str:
            if layer is None:
                return default_layer(classifier, images, min_map_fraction, group)
            return _full_name(classifier, images, layer, group)

        self.name = cached(classifier, ("layer", layer, min_map_fraction, self.size), find)  # within the classifier
        self.module = classifier.get_submodule(self.name)
        classifier.unfold([self.module])  # a folded convolution would give its batch norm's output

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the layer's map (B,C,h,w) for images x (B,C,H,W)."""
        outputs: list[Tensor] = []
        with _hooked(self.module, lambda _, args, out: outputs.append(_map_of(out, self.size).clone())):
            self.classifier(x)
        return outputs[0]

    @torch.enable_grad()
    def activation_times_gradient(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return R dy/dR (B,C,h,w) of the layer's map R, where y are the logits of targets (B,) for images x (B,C,H,W)."""
        features = self.features(x).requires_grad_()
        with self.patched(lambda _: features.clone()):
            logits = self.classifier.task.logit(self.classifier(x), targets)
        return (features * torch.autograd.grad(logits.sum(), features, materialize_grads=True)[0]).detach()

    def patched(self, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the layer's map (B,C,h,w) is replaced by change(map)."""

        def hook(module: nn.Module, args: tuple, out: Any) -> Tensor:
            layout = as_map(out, self.size)
            assert layout is not None
            features, from_map = layout
            return from_map(change(features).to(out.dtype))

        return _hooked(self.module, hook)


@contextmanager
def _hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    with module.register_forward_hook(hook):  # runs after the user's own hooks, and is removed on an error too
        yield


def as_map(out: Any, size: Sequence[int]) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """Return a module's output as a map (B,C,h,w), and the function from such a map to the output's own layout.

    None where the output is no map: one has the proportions of the image's `size` (H,W), to within a cell.
    """
    if isinstance(out, Tensor) and out.ndim == 4:
        for order, inverse in ([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3, 1, 2], [0, 2, 3, 1]):
            h, w = out.shape[order[2]], out.shape[order[3]]
            if h * w > 1 and abs(h - w * size[0] / size[1]) < 1 and h <= size[0] and w <= size[1]:
                return out.permute(order), lambda features, inverse=inverse: features.permute(inverse)
    if isinstance(out, Tensor) and out.ndim == 3 and (n := math.isqrt(out.shape[1])) > 1:
        first = out.shape[1] - n**2  # number of tokens before the map's
        return (
            out[:, first:].transpose(1, 2).unflatten(2, (n, n)),
            lambda features: torch.cat([out[:, :first], features.flatten(2).transpose(1, 2)], 1),
        )
    return None


def _map_of(out: Any, size: Sequence[int]) -> Tensor:
    layout = as_map(out, size)
    assert layout is not None
    return layout[0]


def default_layer(classifier: Classifier, images: Tensor, min_map_fraction: float, group: str = "perturbation") -> str:
    """Return the name, within the classifier, of the layer to use where none is named.

    Candidates are modules that run once, give a map and lie on every path to the logits. The last whose map has sides of at
    least `min_map_fraction` of the image's is chosen, or else the last of the finest maps. In a transformer, where most
    modules give tokens, the middle one of the modules in a Sequential or ModuleList is chosen first.
    """
    runs = [(name, *shapes[0]) for name, shapes in map_shapes(classifier, images).items() if len(shapes) == 1 and shapes[0]]
    tokens = [name for name, ndim, _ in runs if ndim == 3]
    fractions = {name: min(h / images.shape[2], w / images.shape[3]) for name, ndim, (h, w) in runs if ndim == 4}
    finest = min(min_map_fraction, max(fractions.values(), default=min_map_fraction))
    candidates = [name for name in reversed(fractions) if fractions[name] >= finest]
    if 2 * len(tokens) > len(runs):
        stacks = {name for name, module in classifier.named_modules() if isinstance(module, (Sequential, ModuleList))}
        blocks = [name for name in tokens if name.rpartition(".")[0] in stacks]
        candidates = sorted(blocks, key=lambda name: abs(tokens.index(name) - len(tokens) / 2)) + candidates
    for name in candidates:
        if _is_on_every_path(classifier, images, name):
            return name
    raise ValueError(
        f"model {classifier.name} has no layer that lies on every path to the logits and gives a map (B,C,h,w) or tokens "
        f"(B,N,C): name one with {group}.layer="
    )


def _full_name(classifier: Classifier, images: Tensor, name: str, group: str) -> str:
    """Return the name within the classifier of the module `name` of the user's network; refuse one without a map."""
    modules = dict(classifier.named_modules(remove_duplicate=False))
    full = next((n for n in (f"network.{name}", name) if name and n in modules), None)
    if full is None:
        names = [n.removeprefix("network.") for n in modules if n not in ("", "network")]
        close = near_matches(name, names, cutoff=0.4) or [n for n in names if "." not in n][:12]
        raise ValueError(f"{group}.layer={name!r} is not a module of model {classifier.name}; near it: {', '.join(close)}")
    shapes = map_shapes(classifier, images, [(full, modules[full])]).get(full, [])
    if len(shapes) != 1:
        raise ValueError(f"{group}.layer={name!r} runs {len(shapes)} times for an image: choose a module that runs once")
    if not shapes[0]:
        raise ValueError(
            f"{group}.layer={name!r} gives neither a map (B,C,h,w) nor tokens (B,N,C): choose a module that does"
        )
    return full


@torch.no_grad()
def map_shapes(
    classifier: Classifier, images: Tensor, modules: Iterable[tuple[str, nn.Module]] | None = None
) -> dict[str, list[MapShape | None]]:
    """Run the network on one grey image; return a MapShape per run of each module, None where a run gave no map.

    Modules are in the order in which they end. images: for their size.
    """
    runs: dict[str, list[MapShape | None]] = {}
    handles = []

    def hook(name: str, out: Any) -> None:
        layout = as_map(out, images.shape[2:]) if isinstance(out, Tensor) and len(out) == 1 else None
        runs.setdefault(name, []).append(layout and (out.ndim, (layout[0].shape[2], layout[0].shape[3])))

    try:
        for name, module in modules or classifier.named_modules():
            handles.append(module.register_forward_hook(lambda _, args, out, name=name: hook(name, out)))
        classifier(torch.full_like(images[:1], 0.5))
    finally:
        for handle in handles:
            handle.remove()
    return runs


@torch.enable_grad()
def _is_on_every_path(classifier: Classifier, images: Tensor, name: str) -> bool:
    """Return whether the output no longer depends on the image once the module's output is detached."""
    image = torch.full_like(images[:1], 0.5).requires_grad_()
    with _hooked(classifier.get_submodule(name), lambda _, args, out: out.detach().clone()):
        logits = classifier.task.output(classifier.raw_output(image), 1)  # without a model that the task compares with
    return not logits.requires_grad or torch.autograd.grad(logits.sum(), image, allow_unused=True)[0] is None


def cached(classifier: nn.Module, key: Hashable, compute: Callable[[], Value]) -> Value:
    """Return compute(), remembered under `key` for as long as the classifier's weights stay the same."""
    tensors = [*classifier.parameters(), *classifier.buffers()]
    state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    cached_state, values = _cache.get(classifier, (None, {}))
    if cached_state != state:
        values = {}
        _cache[classifier] = state, values
    if key not in values:
        values[key] = compute()
    return values[key]
