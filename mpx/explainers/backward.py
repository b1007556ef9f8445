"""Backward passes with rules of their own. Nothing is put on the network: torch's functions are changed while it is asked.

    guided_backprop      a ReLU passes back only what is positive                     (Springenberg et al. 2015)
    excitation_backprop  a neuron's share goes to its inputs by their positive parts  (Zhang et al. 2016)

Excitation backprop wants inputs that are not negative, as after a ReLU. Where one is (a bottleneck without activation, a sum
of branches), the part of an input is the positive part of weight times input, which is the same for the others. Biases get
nothing, a batch norm passes all on as it is (as in torchray), and so all is passed on where some part is positive.
"""


import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mpx.explainers import at_least
from mpx.explainers.cam import find, upsample
from mpx.explainers.gradients import largest, slopes

LINEAR = {"conv2d": F.conv2d, "linear": F.linear}
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean")
ADD = ("add", "add_", "__add__", "__iadd__", "__radd__")
PLAIN = {"max_pool2d", "cat", "concat", "flatten", "view", "reshape", "dropout", "pad", "permute", "transpose", "contiguous",
         "chunk", "split", "squeeze", "unsqueeze", "__getitem__", "clone", "to"}  # fmt: skip
QUESTIONS = {"__get__", "size", "dim", "numel", "__len__", "_assert", "is_contiguous", "is_floating_point"}


def guided_backprop(photos: Tensor, classifier, targets: Tensor, pictures: int = 64) -> Tensor:
    """The largest over colours, as of a gradient. ReLU and ReLU6, modules or functions, in place or not."""
    with Guided() as guided:
        found = slopes(photos, classifier, targets, pictures)
    if not guided.found:
        raise ValueError(
            f"explainer=guided_backprop changes what ReLUs pass back, and model {classifier.name} has none: choose gradient"
        )
    return largest(found)


def excitation_backprop(
    photos: Tensor,
    classifier,
    targets: Tensor,
    layer: str | int | None = None,
    min_map_fraction: float = 0.0625,
    pictures: int = 64,
) -> Tensor:
    """The sum over the channels of a layer. layer: see `find`;
    min_map_fraction: share of the photo's sides that the layer's map must have."""
    at_least(1, pictures=pictures)
    with classifier.unfolded():  # rules for weights are for the network's own
        where = find(photos, classifier, layer, min_map_fraction)
        maps = [_excitation(where, x, of) for x, of in zip(photos.split(pictures), targets.split(pictures))]
    return upsample(torch.cat(maps), photos)


@torch.enable_grad()
def _excitation(where, x: Tensor, targets: Tensor) -> Tensor:
    """(B,1,h,w), 1 in all where no neuron lacks positive inputs."""
    kept, rules = [], Excitation(where.classifier.name)

    def begin(features: Tensor) -> Tensor:
        kept.append(features.detach().clone().requires_grad_())
        rules.on = True  # what comes before the layer needs no rule
        return kept[0].clone()

    with rules, where.patched(begin):
        logits = where.classifier(x)
    return torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), kept[0])[0].sum(1, keepdim=True)


def _name(function) -> str:
    return getattr(function, "__name__", str(function))


def _rectifies(name: str, args: tuple, kwargs: dict) -> bool:
    return name in ("relu", "relu_", "relu6") or name == "hardtanh" and [*args, kwargs.get("min_val", -1.0)][1] == 0


class Guided(TorchFunctionMode):
    found = 0  # ReLUs

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if _rectifies(_name(function), args, kwargs or {}):
            self.found += 1
            if out.requires_grad:
                out.register_hook(lambda slope: slope.clamp(min=0))
        return out


class Excitation(TorchFunctionMode):
    on = False

    def __init__(self, model: str):
        super().__init__()
        self.model = model

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, _name(function)
        if not self.on or name in PLAIN | QUESTIONS:
            return function(*args, **kwargs)
        with torch.no_grad():
            first = (value.clone() if isinstance(value, Tensor) else value for value in args[:1])  # it may work in place
            out = function(*first, *args[1:], **kwargs)
        x = args[0] if args else kwargs["input"]
        if _rectifies(name, args, kwargs) or name == "batch_norm":
            return _as(out, x)
        if name in MEANS:
            return _shares(out, [(x, x.clamp(min=0), lambda part: function(part, *args[1:], **kwargs))])
        if name in ADD and not kwargs:
            branches = [value for value in args if isinstance(value, Tensor)]
            return _shares(out, [(value, value.clamp(min=0), lambda part: part) for value in branches])
        if name in LINEAR:
            return _shares(out, _signs(LINEAR[name], x, args, kwargs))
        raise ValueError(
            f"explainer=excitation_backprop has no rule for {name}, which model {self.model} uses: choose another "
            "explainer, or a later layer with explainer.layer="
        )


def _signs(function, x: Tensor, args: tuple, kwargs: dict) -> list:
    """The two terms of the positive parts: positive weights with positive inputs, negative with negative."""
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    options, more = args[3:], {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}

    def term(**sign):
        clamped = weight.clamp(**sign)
        return x, x.clamp(**sign), lambda part: function(part, clamped, None, *options, **more)

    return [term(min=0)] + [term(max=0)] * bool((x < 0).any())


def _shares(out: Tensor, terms: list) -> Tensor:
    """out, whose p goes back as x_j sum_i f_ij p_i / sum_k f_ik x_k; terms: (x, its part that counts, f), f linear."""
    with torch.no_grad():
        sums = sum(f(part) for _, part, f in terms)
        inverse = torch.where(sums > torch.finfo(sums.dtype).tiny, 1 / sums, 0.0)
    return _as(out, sum(f(x * part.detach()) for x, part, f in terms) * inverse)


def _as(value: Tensor, back: Tensor) -> Tensor:
    """value, with what `back` passes back."""
    return value.detach() + (back - back.detach())
