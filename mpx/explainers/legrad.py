"""LeGrad (Bousselham et al. 2025): how the target's logit depends on the attention A of each block of a transformer.

    sum over blocks l of  mean over heads and queries of  relu(dy_l/dA_l)

y_l is the logit that the network's own head gives for the tokens after block l, as if the later blocks were not there.
The gradient of A comes from that of the attended values A V, dy/dA = dy/d(A V) V^T, so that attention is computed as always.
Both are read from torch's functions while the network runs, so that networks of any library will do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mpx.explainers.base import ExplainerContext, split_rows
from mpx.explainers.layer_maps import upsample
from mpx.explainers.torch_functions import function_name
from mpx.models.classifier import Classifier
from mpx.models.layers import as_map
from mpx.option_values import Count


def legrad(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    blocks: Count | None = None,
    max_batch: Count = 64,
) -> Tensor:
    """Return the sum over the last `blocks` blocks (None: all) of the mean positive gradient of the attention to each token.

    The network consists of blocks of one size in which all tokens attend to all, by torch's scaled_dot_product_attention or
    MultiheadAttention. The last n*n tokens are the map.
    """
    tokens = torch.cat([attention_relevance(classifier, x, y, blocks) for x, y in split_rows(max_batch, images, targets)])
    layout = as_map(tokens[..., None], images.shape[2:])
    if layout is None:
        raise ValueError(f"explainer=legrad: the {tokens.shape[1]} tokens of model {classifier.name} are no square map")
    return upsample(layout[0], images)


@torch.enable_grad()
def attention_relevance(classifier: Classifier, images: Tensor, targets: Tensor, blocks: int | None) -> Tensor:
    """Return the relevance (B,N) of all tokens."""
    recorder = AttentionRecorder(len(images))
    with recorder.watching(classifier), recorder:
        classifier(images.detach().clone().requires_grad_())
    names = recorder.block_names(classifier.name)
    modules = [classifier.get_submodule(name) for name in names]
    total = torch.zeros((), device=images.device)
    for name in names[-blocks:] if blocks else names:
        with returning(modules, recorder.outputs[name]):
            logits = classifier.task.logit(classifier(images), targets).sum()
        for call in recorder.calls:
            if name in call.modules:
                gradient = call.to_heads(torch.autograd.grad(logits, call.output, retain_graph=True)[0])
                total = total + (gradient @ call.values.transpose(2, 3)).relu().mean((1, 2)).detach()
    return total


class Call(NamedTuple):
    """A call of attention: the names of the modules that it happened in, from the outermost, and what is left of it."""

    modules: tuple[str, ...]
    values: Tensor  # V, (B,heads,N,d)
    output: Tensor
    to_heads: Callable[[Tensor], Tensor]  # from the gradient of `output` to that of A V, (B,heads,N,d)


class AttentionRecorder(TorchFunctionMode):
    """A context that records the calls of attention from all tokens to all, of a batch of `rows` images."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows = rows
        self.calls: list[Call] = []
        self.outputs: dict[str, Any] = {}  # of modules, by name
        self._running: list[str] = []

    @contextmanager
    def watching(self, classifier: Classifier) -> Iterator[None]:
        """Keep the outputs of the classifier's modules, and know which run."""

        def leave(name: str, output: Any) -> None:
            self._running.pop()
            self.outputs[name] = output

        with ExitStack() as hooks:
            for name, module in classifier.named_modules():
                enter = lambda *_, name=name: self._running.append(name)  # noqa: E731
                hooks.enter_context(module.register_forward_pre_hook(enter))
                hooks.enter_context(module.register_forward_hook(lambda *given, name=name: leave(name, given[-1])))
            yield

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run a torch function, and record it where it is attention."""
        kwargs, name = kwargs or {}, function_name(function)
        out = function(*args, **kwargs)
        if name == "scaled_dot_product_attention" and args[0].shape[-2] == args[1].shape[-2]:
            self._record(args[2], out, lambda gradient: gradient)
        elif name == "multi_head_attention_forward" and args[5] is not None and args[0].shape == args[1].shape:
            self._record(*_attention_of_module(out[0], *args))
        return out

    def _record(self, values: Tensor, output: Tensor, to_heads: Callable[[Tensor], Tensor]) -> None:
        if self._running and values.ndim == 4 and len(values) == self.rows:
            self.calls.append(Call(tuple(self._running), values.detach(), output, to_heads))

    def block_names(self, model_name: str) -> list[str]:
        """Return the names of the blocks, the outermost modules of which each has attention of its own."""
        paths = list(dict.fromkeys(call.modules for call in self.calls))
        depth = len(commonprefix(paths)) if len(paths) > 1 else -2
        names = list(dict.fromkeys(path[depth] for path in paths))
        outputs = [self.outputs[name] for name in names]
        tensors = [output[0] if isinstance(output, tuple) else output for output in outputs]
        if len({tensor.shape if isinstance(tensor, Tensor) else None for tensor in tensors}) != 1:
            raise ValueError(
                f"explainer=legrad: model {model_name} has no blocks of one size in which all tokens attend to all, by "
                "torch's attention functions: choose another explainer"
            )
        return names


def _attention_of_module(
    output: Tensor, query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, weight: Tensor, bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:  # fmt: skip
    """Return the arguments of `_record` for torch's multi_head_attention_forward, whose sequences are (N,B,width)."""
    values = functional.linear(value, weight[2 * width :], None if bias is None else bias[2 * width :])
    projection = rest[4]  # after bias_k, bias_v, add_zero_attn and dropout

    def to_heads(features: Tensor) -> Tensor:
        return features.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)

    return to_heads(values), output, lambda gradient: to_heads(gradient @ projection)


@contextmanager
def returning(modules: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let these modules do nothing but return `output`."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = lambda *args, **kwargs: output
        yield
    finally:
        for module, forward in zip(modules, before):
            del module.forward
            if forward is not None:
                module.forward = forward
