"""Sanity checks (Adebayo et al. 2018): whether the map changes with the network's parameters and with the class.

Rows are explained again, so this costs as much as several runs.
"""

import copy
import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from mpx.metrics.base import MetricContext, Need, check_network, metric
from mpx.metrics.similarity import spearman, ssim
from mpx.models.classifier import Classifier
from mpx.option_values import Count, one_of
from mpx.randomness import key

Randomisation = Annotated[str, one_of("shuffle", "reset")]
NEEDS: tuple[Need, ...] = ("explain", "classes", "parameters")


@metric(direction={"": "near 0", "ssim": "lower", "other_class": "near 0"}, needs=NEEDS)
def sanity(
    saliency: Tensor, context: MetricContext, stages: Count = 4, randomisation: Randomisation = "shuffle", seed: int = 0
) -> dict[str, Tensor]:
    """Return Spearman's rank correlation (B,) with the map of a network whose parameters are random.

    Cascading: a share of 1/stages, 2/stages, ... 1 of the layers is randomised, from the logits down; `spearman@share` and
    `ssim@share` are the curves, `ssim` the end of the second. other_class: the correlation with the map of another class,
    drawn for each row. SSIM's window is 11 pixels wide; `ssim` is NaN for smaller maps. A model that the task compares with
    (task=difference with task.model) is randomised by the same share: the difference depends on both.
    randomisation: shuffle puts each parameter's values in a random order, which keeps the scale of the outputs; reset draws
    them anew as at construction (as in the paper), after which the outputs of deep networks may be constant.
    """
    other_targets = _other_classes(context, seed)
    curves = {}
    for stage in range(1, stages + 1):
        network = randomised(context.classifier, stage / stages, randomisation, seed)
        other = context.explain(network, context.images, context.targets, seed)
        curves[f"spearman@{stage / stages:g}"] = spearman(saliency, other)
        curves[f"ssim@{stage / stages:g}"] = ssim(saliency, other)
    other_class = context.explain(context.classifier, context.images, other_targets, seed)
    values = {"": curves["spearman@1"], "ssim": curves["ssim@1"], "other_class": spearman(saliency, other_class)}
    return values | curves


@torch.no_grad()
def _other_classes(context: MetricContext, seed: int) -> Tensor:
    """Draw another class (B,) for each row."""
    output = context.classifier(context.images[:1])
    check_network("sanity", NEEDS, context.classifier, context.task, output)
    choices = context.task.target_choices(output)
    targets = context.targets.tolist()
    others = [[index for index in choices if index != target] for target in targets]
    drawn = [other[key(seed, target) % len(other)] for target, other in zip(targets, others)]
    return torch.tensor(drawn, device=context.targets.device)


def randomised(
    classifier: Callable[[Tensor], Tensor], share: float, randomisation: str = "shuffle", seed: int = 0
) -> nn.Module:
    """Return a copy whose last ceil(share * layers) layers are random: modules with parameters, in order of construction.

    So are the layers of a model that the task compares with.
    """
    if not isinstance(classifier, nn.Module):
        raise ValueError(f"{type(classifier).__name__} has no parameters to randomise: metric=sanity needs an nn.Module")
    network = copy.deepcopy(classifier)
    networks: list[nn.Module] = [network]
    if isinstance(network, Classifier):
        networks += network.compared
        for folded in (network, *network.compared):
            folded.unfold()  # a folded convolution does not use its own weights
    with torch.no_grad(), torch.random.fork_rng():
        for number, one in enumerate(networks):
            layers = [(name, module) for name, module in one.named_modules() if [*module.parameters(recurse=False)]]
            for name, module in layers[len(layers) - math.ceil(share * len(layers)) :]:
                torch.manual_seed(key(seed, "compared." * number + name))  # a layer is the same at every stage
                _randomise(module, randomisation)
    return network


def _randomise(module: nn.Module, randomisation: str) -> None:
    reset = getattr(module, "reset_parameters", None)  # foreign: not every nn.Module has it
    if randomisation == "reset" and reset is not None:
        reset()
        return
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel()).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
