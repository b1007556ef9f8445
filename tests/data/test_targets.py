"""Words to class indices, with the class names of ImageNet."""

import pytest
import torch
from torchvision.models import ResNet50_Weights

from mpx.data.annotations import Region
from mpx.data.targets import region_of, resolve_targets

NAMES = ResNet50_Weights.DEFAULT.meta["categories"]
LOGITS = torch.randn(1000, generator=torch.Generator().manual_seed(0))
ORDER = LOGITS.argsort(descending=True).tolist()


@pytest.mark.parametrize(
    "spec, label, expected",
    [
        ("top1", None, [ORDER[0]]),
        ("top3", None, [ORDER[2]]),
        ("top1000", None, [ORDER[-1]]),
        (["top1", "top2", "top1"], None, ORDER[:2]),
        (["label", "espresso"], 967, [967]),
        ([3, "flute", 1], None, [3, 558, 1]),
        ("label", 7, [7]),
        ("label", "7", [7]),
        ("label", "tench", [0]),
        ("label", "golden_retriever", [207]),
        ("label", "n01440764", [0]),
        ("label", "n15075141", [999]),
        (985, None, [985]),
        ("985", None, [985]),
        (0, None, [0]),
        ("flute", None, [558]),
        ("ESPRESSO", None, [967]),
        ("espresso maker", None, [550]),
        ("egyptian", None, [285]),
    ],
)
def test_resolves(spec, label, expected):
    assert resolve_targets(spec, LOGITS, label, NAMES) == expected


@pytest.mark.parametrize(
    "spec, label, words",
    [
        (1000, None, "0 to 999"),
        (-1, None, "0 to 999"),
        ("-1", None, "0 to 999"),
        ("label", 1000, "label 1000"),
        ("top0", None, "top1 to top1000"),
        ("top1001", None, "top1000"),
        ("label", None, "dataset with labels"),
        ([], None, "no class"),
        (None, None, "not a class"),
        (True, None, "not a class"),
        (1.5, None, "not a class"),
        ("", None, "not a class of"),
        ("zzzzqqqq", None, "'tench' to 'toilet tissue'"),
        ("label", "n00000000", "label"),
        ("cat", None, "ambiguous.*282.*285"),
        ("espreso", None, "near it: espresso"),
        ("flut", None, "near it: flute"),
    ],
)
def test_refuses(spec, label, words):
    with pytest.raises(ValueError, match=words) as error:
        resolve_targets(spec, LOGITS, label, NAMES)
    assert "\n" not in str(error.value)


def test_an_exact_name_wins_over_words():
    # the name occurs twice in ImageNet; torchvision calls the bird "crane bird", so that the whole name is the machine
    assert resolve_targets(["crane", "crane bird"], LOGITS, None, NAMES) == [517, 134]
    twice = [*NAMES]
    twice[134] = "crane"
    with pytest.raises(ValueError, match=r"134 \(crane\), 517 \(crane\)"):
        resolve_targets("crane", LOGITS, None, twice)


def test_synonyms_come_before_words():
    names = ["sax, saxophone", "saxophone case", "cradle"]
    assert resolve_targets("saxophone", torch.zeros(3), None, names) == [0]
    assert resolve_targets("case", torch.zeros(3), None, names) == [1]
    with pytest.raises(ValueError):  # no part of a word
        resolve_targets("rad", torch.zeros(3), None, names)


def test_models_without_class_names():
    assert resolve_targets(["top1", 2], torch.tensor([0.0, 1.0, 0.5])) == [1, 2]
    with pytest.raises(ValueError, match="no class names"):
        resolve_targets("flute", torch.zeros(3))


def test_a_label_of_several_classes():
    assert resolve_targets("label", LOGITS, ("espresso", 7, "n01440764"), NAMES) == [967, 7, 0]
    assert resolve_targets(["label", 7], LOGITS, ("espresso", 7), NAMES) == [967, 7]
    for label, words in [((), "dataset with labels"), (("espresso", "zzzzqqqq"), "label 'zzzzqqqq'")]:
        with pytest.raises(ValueError, match=words):
            resolve_targets("label", LOGITS, label, NAMES)


def test_region_of_a_class():
    one, other = Region(((0, 0, 1, 1),)), Region(difficult=True)
    regions = {"n01440764": one, "espresso": other}
    assert [region_of(target, regions, 1000, NAMES) for target in (0, 967, 5)] == [one, other, None]
    with pytest.raises(ValueError, match="2 of the labels 'tench', 0 are class 0"):
        region_of(0, {"tench": one, 0: other}, 1000, NAMES)
    assert region_of(0, {"zzzzqqqq": other, 1000: other, "tench": one}, 1000, NAMES) is one


def test_classes_named_by_numbers():
    """A folder called 10 is the class of this name, which is another than class 10 where names are sorted as text."""
    names = sorted(str(i) for i in range(1, 13))  # 1, 10, 11, 12, 2, ...
    logits = torch.zeros(12)
    assert [resolve_targets("label", logits, name, names) for name in ("1", "10", "2")] == [[0], [1], [4]]
    assert region_of(1, {"10": "here", "2": "there"}, 12, names) == "here"
    assert resolve_targets(10, logits, None, names) == [10] == resolve_targets("label", logits, 10, names)
    with pytest.raises(ValueError, match="'10' is an index and the name of class 1"):
        resolve_targets("10", logits, None, names)
    assert resolve_targets("10", logits, None, [str(i) for i in range(12)]) == [10]
