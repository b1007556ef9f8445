"""The smallest network of each family of torchvision, and a small one of each of timm: explained with right gradients, and
returned as it was.

Random weights and statistics, two steps and the smallest input that the architecture takes. Left out: torchvision's networks
of more than 60 million parameters, and timm's families of which every member has more than 6 million.

`pytest -m slow tests/slow/test_architectures.py --table=FILE` tries all other networks of torchvision too, and writes what
became of each as a Markdown table.
"""

import copy
import re
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mpx import explain
from mpx.models import Classifier, zoo
from mpx.models.bare import as_classifier
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION
from mpx.tasks.detection import Detection
from mpx.tasks.segmentation import Segmentation

MOST_PARAMETERS = 60e6
TASKS = {tv: CLASSIFICATION, tv.segmentation: Segmentation("image"), tv.detection: Detection(min_score=0)}
SIDES = {"inception_v3": 75, "maxvit_t": 224, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}  # others: 64 px

# the smallest member of less than 6 million parameters of each family of timm that has one
SMALL = [
    *("coat_tiny", "convit_tiny", "cs3darknet_focus_s", "cspnext_tiny", "deit_tiny_patch16_224", "dla46x_c"),
    *("edgenext_xx_small", "efficientformerv2_s0", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim_dw"),
    *("fasternet_t0", "fastvit_t8", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "iformer_t", "inception_next_atto"),
    *("lcnetv2_small", "mobilenetv3_small_050", "mobilevit_xxs", "pvt_v2_b0", "regnetx_002", "repghostnet_050"),
    *("repvit_m0_9", "rexnet_100", "starnet_s050", "swiftformer_xs", "test_byobnet", "test_coatnet", "test_convnext"),
    *("test_efficientnet", "test_mambaout", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos"),
    *("vit_tiny_patch16_dinov3_qkvb", "xcit_nano_12_p8_224"),
]

# larger ones whose norms are adjacent to convolutions, linear layers or neither, before or after tokens
NORMS = ["levit_128s", "levit_conv_128s", "visformer_tiny", "resnetv2_50", "nextvit_small", "convmixer_768_32"]


def with_statistics(network: nn.Module) -> nn.Module:
    """Return a network with the statistics of its norms as after training, which folding must respect."""
    for module in network.modules():
        if isinstance(module, _NormBase) and module.running_var is not None:
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


def gradients(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Return the gradient (B,C,H,W) of each image's output, all numbers weighted."""
    x = images.clone().requires_grad_()
    numbers = classifier.task.comparable(classifier(x)).flatten(1)
    weights = torch.linspace(1, 2, numbers.shape[1], dtype=x.dtype)
    return torch.autograd.grad((numbers @ weights).sum(), x)[0]


def assert_right_gradients(classifier: Classifier, side: tuple[int, int]) -> None:
    """Assert that gradients alone and beside another image are those of two images in float64 through torch's own norms.

    torch's batch norm is wrong for one image only, and tests/models/test_norm_gradients.py compares with finite differences.
    """
    images = torch.rand(2, 3, *side, generator=torch.Generator().manual_seed(1))
    with classifier.frozen():
        expected = gradients(copy.deepcopy(classifier).double(), images.double())
    with classifier.frozen_and_folded(images):
        for found in (gradients(classifier, images[:1]), gradients(classifier, images)):
            difference = (found - expected[: len(found)]).flatten(1).norm(dim=1)
            assert (difference <= 0.1 * expected[: len(found)].flatten(1).norm(dim=1)).all(), difference


def snapshot(network: nn.Module) -> tuple:
    """Return everything that must not change."""
    tensors = network.state_dict(keep_vars=True)
    return (
        {key: (value.detach().clone(), value.stride(), value.requires_grad, value.grad) for key, value in tensors.items()},
        [(module.training, "forward" in vars(module)) for module in network.modules()],
        [[*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks] for module in network.modules()],
    )


def assert_equal(before: tuple, after: tuple) -> None:
    assert before[1:] == after[1:] and before[0].keys() == after[0].keys()
    for key, (value, *rest) in before[0].items():
        changed, *others = after[0][key]
        assert rest == others and torch.equal(value, changed), key


def check(classifier: Classifier, side: tuple[int, int], task: Task, record: Callable[[str, str], None]) -> None:
    """Check a network; record "explained" with mpx's warnings, or the sentence by which it is refused."""
    images = torch.rand(1, 3, *side, generator=torch.Generator().manual_seed(0))
    before = snapshot(classifier.network)
    if not isinstance(task, Detection) and any(isinstance(module, _NormBase) for module in classifier.modules()):
        assert_right_gradients(classifier.with_task(task), side)  # a detector finds other boxes in float64
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            e = explain(classifier, images, task=task, steps=2, mask_size=4, perturbation="mean_color", frames=2)
        except ValueError as error:
            record("result", f"refused: {error}")
            raise
    sentences = [str(warning.message) for warning in warned if warning.category is UserWarning]
    said = [sentence for sentence in sentences if " of 1 rows " not in sentence]  # weak evidence, as weights are random
    record("result", "; ".join(["explained", *said]))
    assert e.saliency.shape == (1, 1, *side) and e.saliency.isfinite().all() and e.value_before.isfinite().all()
    assert_equal(before, snapshot(classifier.network))


def torchvision_names(smallest: bool) -> list[tuple]:
    """Return module and name of torchvision's networks for images: all, or the smallest of each family."""
    families: dict[str, list[tuple]] = {}
    for module in TASKS:
        for name in tv.list_models(module=module):
            family = name if not smallest else re.match(r"[a-z]+(_v\d|_[xy](?=_))?", name)[0]
            if (size := tv.get_model_weights(name).DEFAULT.meta["num_params"]) <= MOST_PARAMETERS:
                families.setdefault(family, []).append((size, module, name))
    return [min(members, key=lambda member: member[0])[1:] for members in families.values()]


def pytest_generate_tests(metafunc):
    if "module" in metafunc.fixturenames:
        names = torchvision_names(smallest=not metafunc.config.getoption("--table", None))
        metafunc.parametrize("module, name", names, ids=lambda value: value if isinstance(value, str) else "")


def few_boxes(network: nn.Module) -> None:
    """Let a detector with random weights detect something, at the side of 64 px unless its size is fixed."""
    network.transform.min_size = (64,)
    for part in (network, getattr(network, "roi_heads", network)):
        part.score_thresh, part.detections_per_img, part.topk_candidates = 0.0, 5, 20
    if hasattr(network, "rpn"):
        network.rpn._pre_nms_top_n = network.rpn._post_nms_top_n = {"training": 20, "testing": 20}


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvision(module, name, record_property):
    torch.manual_seed(0)
    classifier = zoo.torchvision(name, None)
    few_boxes(classifier.network) if module is tv.detection else with_statistics(classifier.network)
    side = SIDES.get(name, 64)
    record_property("architecture", f"{module.__name__.replace('.models', '')} | {name}")
    check(classifier, (side, side), TASKS[module], record_property)


@pytest.mark.parametrize("name", [name for name in SMALL + NORMS if timm.is_model(name)])  # older versions have fewer
def test_timm(name, record_property):
    torch.manual_seed(0)
    network = with_statistics(timm.create_model(name, num_classes=5))
    config = network.pretrained_cfg
    side = config["input_size"][1] if config.get("fixed_input_size") else 96
    record_property("architecture", f"timm | {name}")
    check(as_classifier(network), (side, side), CLASSIFICATION, record_property)
