"""Classifier: any network as a function from pictures in [0,1] to logits (B, classes).

It normalises inside, carries the preprocessing and the class names that belong to the network, and leaves the network as
it came: nothing is moved or changed at construction, `frozen()` gives all back, the caller's tensor is never written.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mpx.data.preprocess import Preprocess
from mpx.models.folding import fold, unfold

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()  # not attributes: locks cannot be pickled
_guard = threading.Lock()  # of _locks


@contextmanager
def _alone(classifier: nn.Module) -> Iterator[None]:
    """Other threads wait with every network that has a module in common, however it is wrapped."""
    with _guard:  # in one order, or two threads could each wait for the other
        locks = [_locks.setdefault(module, threading.RLock()) for module in sorted(classifier.modules(), key=id)]
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        yield


class Classifier(nn.Module):
    def __init__(
        self,
        network: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        preprocess: Preprocess | None = None,
        categories: Sequence[str] | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.categories = None if categories is None else tuple(categories)
        self.name = name or type(network).__name__
        self.folded: dict[nn.Module, nn.Module] = {}  # convolution -> its batch norm
        mean, std = (torch.tensor(v if isinstance(v, (int, float)) else list(v), dtype=torch.float64) for v in (mean, std))
        if any(v.numel() not in (1, 3) for v in (mean, std)) or not (std > 0).all():
            raise ValueError(f"mean={mean.tolist()}, std={std.tolist()}: each must be one number or three, std above 0")
        for key, value in (("scale", 1 / std), ("shift", -mean / std)):  # not in the state dict: that stays the network's
            value = value.float().expand(3).reshape(1, 3, 1, 1).to(self.device)  # (1,3,1,1)
            self.register_buffer(key, value, persistent=False)

    @property
    def device(self) -> torch.device:
        first = next(self.network.parameters(), next(self.network.buffers(), None))
        return first.device if first is not None else getattr(self, "scale", torch.empty(0)).device

    def forward(self, x: Tensor) -> Tensor:  # (B,3,H,W) in [0,1] -> (B, classes)
        out = self.network(torch.addcmul(self.shift, x, self.scale))  # a new tensor: in-place first layers are harmless
        if hasattr(out, "logits"):  # Hugging Face; torchvision's named tuples with auxiliary heads
            out = out.logits
        elif isinstance(out, (tuple, list)) and out:
            out = out[0]
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"model output must be (B, classes), got {got} for B={len(x)}")
        if self.categories is not None and len(self.categories) != out.shape[1]:
            raise ValueError(f"{len(self.categories)} category names do not fit a model of {out.shape[1]} classes")
        return out

    @contextmanager
    def frozen(self, size: Sequence[int] | None = None) -> Iterator["Classifier"]:
        """Eval mode, no parameter gradients; on leaving every module's mode and every parameter's flag are as before.

        size: (H,W) of the pictures to come, where there will be so many that batch norms are worth folding (models.fold).
        Another thread that freezes the same network waits, or it would take the frozen state for the one to give back.
        """
        if any(tensor.is_inference() for tensor in (*self.parameters(), *self.buffers())):
            raise ValueError(f"model {self.name} was built under inference_mode, where no gradient can pass it: build it "
                             "outside, or under no_grad")  # fmt: skip
        with _alone(self):
            yield from self._freeze(size)

    def _freeze(self, size: Sequence[int] | None) -> Iterator["Classifier"]:
        modes = [(module, module.training) for module in self.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.parameters()]
        folded = {}  # here: one `frozen` may be inside another
        try:
            for module, _ in modes:  # the flag itself: a network's own train() may do more than set it
                module.training = False
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            if size is not None:
                folded = fold(self, size)
                self.folded |= folded
            yield self
        finally:
            if vars(self).pop("_compiled", None) is not None:
                torch._dynamo.reset()  # it knows the folded network
            self.unfold(*folded)
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """As the classifier, compiled by torch.compile at the first call of each shape; until it is no longer frozen."""
        if "_compiled" not in vars(self):  # not an attribute: a module cannot be its own child
            vars(self)["_compiled"] = torch.compile(self)

        def ask(x: Tensor) -> Tensor:
            try:
                return vars(self)["_compiled"](x)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise ValueError(
                    f"compile=true: {self.name} cannot be compiled here ({str(error).strip().splitlines()[0]}): leave it out"
                ) from error

        return ask

    def unfold(self, *modules: nn.Module) -> None:
        """Gives these modules back what they give by themselves, if it was changed."""
        for module in modules:
            if norm := self.folded.pop(module, None):
                unfold(module, norm)

    def check(self, x: Tensor) -> Tensor:
        """One forward and backward of one picture x: (1,3,H,W). Returns its logits (1, classes), or says what is wrong."""
        with self.frozen(), torch.enable_grad():
            x = x[:1].detach().to(self.device, copy=True).requires_grad_()
            logits = self._first(x)
            if not logits.isfinite().all():
                raise ValueError(
                    f"model {self.name} gives NaN or infinite logits for this picture: look at its weights, "
                    "mean, std and precision"
                )
            # of all logits, unequally: one alone may be constant, and a plain sum of probabilities is
            weights = torch.linspace(1, 2, logits.shape[1], device=x.device, dtype=logits.dtype)
            grad = torch.autograd.grad(logits @ weights, x, allow_unused=True)[0] if logits.requires_grad else None
        if grad is None or not grad.any():
            raise ValueError(
                f"{self.name} is a model without gradient to the input: no mask can be learnt through it; "
                "look for no_grad, detach, numpy or argmax inside its forward"
            )
        if not grad.isfinite().all():
            raise ValueError(
                f"the gradient of model {self.name} to its input is NaN or infinite: look at its precision "
                "and for square roots or logarithms of 0"
            )
        with self.frozen():
            self._check_logits(x.detach(), logits.detach())
        return logits.detach()

    def _first(self, x: Tensor) -> Tensor:
        kind = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)
        if kind is not torch.float32:
            raise ValueError(f"model {self.name} has weights of {kind}: give it as float(), and precision= chooses the rest")
        try:
            return self(x)
        except (RuntimeError, AssertionError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"model {self.name} cannot be asked for pictures of 3 colours and {x.shape[2]}x{x.shape[3]} px ({line}): "
                "give it pictures of the size it was made for (model.size=, or the Classifier's preprocess)"
            ) from error

    @torch.no_grad()
    def _check_logits(self, x: Tensor, logits: Tensor) -> None:
        """Whether they are logits at all, and the picture's own."""
        if logits.shape[1] < 2:
            raise ValueError(
                f"model {self.name} gives a single logit y, whose softmax is 1 whatever it is: let it give two classes, "
                "torch.cat([torch.zeros_like(y), y], 1)"
            )
        random = torch.Generator().manual_seed(0)
        beside = torch.rand(x.shape, generator=random).to(x)
        try:
            pair = self(torch.cat([x, beside]))
        except (RuntimeError, AssertionError):  # one at a time is all that it takes, or all that there is memory for
            return
        if (pair >= 0).all() and (pair.sum(1) - 1).abs().max() < 1e-3:
            raise ValueError(
                f"model {self.name} gives probabilities, and mpx takes the softmax itself: leave out the network's last "
                "softmax, or give the logarithm of what it gives"
            )
        near = 1e-2 * logits.abs().max()
        if (pair[:1] - logits).abs().max() > near and (self(x) - logits).abs().max() <= near:  # else it depends on chance
            raise ValueError(
                f"model {self.name} sees a picture otherwise when another is beside it, so no mask would be its own: look "
                "for batch norms without running statistics (track_running_stats=False)"
            )
