"""A layer inside the network: which one, what it gives, and how that is changed while the network is asked.

A layer is a module of the network by its dotted name. What it gives is a map (B,C,h,w), or (B,h,w,C), or a sequence of
tokens (B,N,C), whose last h*h tokens, the largest square, are the map: a class token stays as it is. Hooks are there only
while the network is asked.
"""

import difflib
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import ModuleList, Sequential

_found = weakref.WeakKeyDictionary()  # classifier -> its weights' state, and what was found out about it with them


class Layer:
    """A module of the network whose output can be looked at and changed, as a map (B,C,h,w). x: (B,3,H,W).

    of: the group whose option `layer` the name is.
    """

    def __init__(self, classifier, name: str | int | None, side: float, x: Tensor, of: str = "perturbation"):
        self.classifier, self.size = classifier, tuple(x.shape[2:])
        if name is None and not 0 < side <= 1:
            raise ValueError(f"{of}.side={side} must be above 0 and at most 1")
        name = None if name is None else str(name)  # a Sequential's are numbers
        key = ("layer", name, side, self.size)
        self.name = once(
            classifier, key, lambda: choose(classifier, x, side, of) if name is None else _named(classifier, x, name, of)
        )
        self.module = classifier.get_submodule(self.name)
        if hasattr(classifier, "unfold"):
            classifier.unfold(self.module)  # of a folded convolution, its own output is meant

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(B,C,h,w) of pictures x (B,3,H,W)."""
        kept = []
        with _hooked(self.module, lambda *hooked: kept.append(as_map(hooked[-1], self.size)[0].clone())):
            self.classifier(x)
        return kept[0]

    @torch.enable_grad()
    def parts(self, x: Tensor, targets: Tensor) -> Tensor:
        """R dy/dR (B,C,h,w), y the targets' logits for pictures x."""
        features = self.features(x).requires_grad_()
        with self.changed(lambda _: features.clone()):
            logits = self.classifier(x).gather(1, targets[:, None])
        return (features * torch.autograd.grad(logits.sum(), features, materialize_grads=True)[0]).detach()

    def changed(self, change: Callable[[Tensor], Tensor]):
        """A context in which the module gives change(map (B,C,h,w))."""

        def hook(module, given, out):
            features, back = as_map(out, self.size)
            return back(change(features).to(out.dtype))

        return _hooked(self.module, hook)


@contextmanager
def _hooked(module, hook: Callable):
    with module.register_forward_hook(hook):  # after the user's own hooks, and gone whatever happens
        yield


def as_map(out, size: Sequence[int]) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """A module's output as a map (B,C,h,w), and the way back from such; None where it is none.

    A map has the proportions of the picture, of `size` (H,W), to within a cell.
    """
    if isinstance(out, Tensor) and out.ndim == 4:
        for there, back in ([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3, 1, 2], [0, 2, 3, 1]):
            _, _, h, w = (out.shape[i] for i in there)
            if h * w > 1 and abs(h - w * size[0] / size[1]) < 1 and h <= size[0] and w <= size[1]:
                return out.permute(there), lambda features, back=back: features.permute(back)
    if isinstance(out, Tensor) and out.ndim == 3 and (n := math.isqrt(out.shape[1])) > 1:
        first = out.shape[1] - n**2  # tokens before the map's
        return (
            out[:, first:].transpose(1, 2).unflatten(2, (n, n)),
            lambda features: torch.cat([out[:, :first], features.flatten(2).transpose(1, 2)], 1),
        )
    return None


def choose(classifier, x: Tensor, side: float, of: str = "perturbation") -> str:
    """The name of the layer that is taken where none is named.

    Of all modules that everything passes through (with their output cut off, nothing reaches the network's), run once and
    give a map: the last whose map has sides of at least `side` of the picture's, or else the last of the finest. In a
    transformer, where most modules give tokens: of those in a Sequential or ModuleList, the one nearest to the middle.
    """
    runs = [(name, *shapes[0]) for name, shapes in runs_of(classifier, x).items() if len(shapes) == 1 and shapes[0]]
    tokens = [name for name, ndim, _ in runs if ndim == 3]
    sides = {name: min(h / x.shape[2], w / x.shape[3]) for name, ndim, (h, w) in runs if ndim == 4}
    least = min(side, max(sides.values(), default=side))
    tried = [name for name in reversed(sides) if sides[name] >= least]
    if 2 * len(tokens) > len(runs):
        stacks = {name for name, module in classifier.named_modules() if isinstance(module, (Sequential, ModuleList))}
        blocks = [name for name in tokens if name.rpartition(".")[0] in stacks]
        tried = sorted(blocks, key=lambda name: abs(tokens.index(name) - len(tokens) / 2)) + tried
    for name in tried:
        if _cuts(classifier, x, name):
            return name
    raise ValueError(
        f"model {_title(classifier)} has no layer that everything passes through and that gives a map (B,C,h,w) or tokens "
        f"(B,N,C): name one with {of}.layer="
    )


def _named(classifier, x: Tensor, name: str, of: str) -> str:
    """The name within the classifier of the module `name` of the user's network."""
    modules = dict(classifier.named_modules(remove_duplicate=False))
    full = next((n for n in (f"network.{name}", name) if name and n in modules), None)
    if full is None:
        names = [n.removeprefix("network.") for n in modules if n not in ("", "network")]
        near = ", ".join(difflib.get_close_matches(name, names, 3, 0.4) or [n for n in names if "." not in n][:12])
        raise ValueError(f"{of}.layer={name!r} is not a module of model {_title(classifier)}; near it: {near}")
    module = modules[full]
    shapes = runs_of(classifier, x, [(full, module)]).get(full, [])
    if len(shapes) != 1:
        raise ValueError(f"{of}.layer={name!r} runs {len(shapes)} times for a picture: choose one that runs once")
    if not shapes[0]:
        raise ValueError(f"{of}.layer={name!r} gives neither a map (B,C,h,w) nor tokens (B,N,C): choose one that does")
    return full


def _title(classifier) -> str:
    return getattr(classifier, "name", type(classifier).__name__)


@torch.no_grad()
def runs_of(classifier, x: Tensor, modules=None) -> dict[str, list[tuple | None]]:
    """Of each module, in the order in which they end: its runs for a picture, as (dimensions, (h,w)) where it gave a map."""
    runs, handles = {}, []

    def hook(module, given, out, name):
        found = as_map(out, x.shape[2:]) if isinstance(out, Tensor) and len(out) == 1 else None
        runs.setdefault(name, []).append(found and (out.ndim, tuple(found[0].shape[2:])))

    try:
        for name, module in modules or classifier.named_modules():
            handles.append(module.register_forward_hook(lambda *hooked, name=name: hook(*hooked, name)))
        classifier(torch.full_like(x[:1], 0.5))
    finally:
        for handle in handles:
            handle.remove()
    return runs


@torch.enable_grad()
def _cuts(classifier, x: Tensor, name: str) -> bool:
    """Whether everything passes through the module: without its output, the network's does not depend on its input."""
    picture = torch.full_like(x[:1], 0.5).requires_grad_()
    with _hooked(classifier.get_submodule(name), lambda module, given, out: out.detach().clone()):
        logits = classifier(picture)
    return not logits.requires_grad or torch.autograd.grad(logits.sum(), picture, allow_unused=True)[0] is None


def once(classifier, key: tuple, make: Callable):
    """make(), or what it gave before for this classifier with the weights that it has."""
    tensors = [*classifier.parameters(), *classifier.buffers()]
    state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    known, found = _found.get(classifier, (None, {}))
    if known != state:
        _found[classifier] = state, (found := {})
    if key not in found:
        found[key] = make()
    return found[key]
