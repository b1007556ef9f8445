"""A bare network, or a name, brings its preprocessing and class names where it has them."""

import pytest
import timm
import torch
import torchvision.models as tv
from planted import SquareNet

import mpx
from mpx.data.datasets import sample
from mpx.data.preprocessing import Preprocess
from mpx.models import Classifier, zoo
from mpx.models.bare import as_classifier

PHOTO = str(sample()[0].path)
OPTIONS = dict(perturbation="mean_color", mask_size=4, steps=2, jitter=0)
SILENCE = "does not say which mean and std"


def quiet(recwarn):
    return not [w for w in recwarn if SILENCE in str(w.message)]


def test_timm_says_all(recwarn):
    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    bare, built = as_classifier(network), zoo.timm("mobilenetv3_small_050", None)
    assert bare.preprocess == built.preprocess and bare.categories == built.categories
    assert torch.equal(bare.scale, built.scale) and torch.equal(bare.shift, built.shift)
    assert bare.network is network and quiet(recwarn)
    assert as_classifier(timm.create_model("mobilenetv3_small_050", num_classes=7)).categories is None
    e = mpx.explain(network, PHOTO, "espresso", **OPTIONS)
    f = mpx.explain(Classifier(network, zoo.IMAGENET_MEAN, zoo.IMAGENET_STD, built.preprocess), PHOTO, 967, **OPTIONS)
    assert torch.equal(e.saliency, f.saliency) and e.classes == ["espresso"]


@pytest.mark.parametrize("network", [SquareNet(), tv.squeezenet1_1()])
def test_silence_is_one_warning(network):
    with pytest.warns(UserWarning, match=SILENCE) as warned:
        bare = as_classifier(network)
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert ("0.485" in str(warned[0].message)) == isinstance(network, tv.SqueezeNet)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(torch.addcmul(bare.shift, x, bare.scale), x) and bare.preprocess is None


def test_detectors_normalise_themselves(recwarn):
    network = tv.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    bare = as_classifier(network)
    assert bare.preprocess == Preprocess((320, 320), 320, "bilinear") and bool((bare.scale == 1).all()) and quiet(recwarn)


def test_a_classifier_stays_and_a_name_is_built(monkeypatch, recwarn):
    classifier = Classifier(SquareNet())
    assert as_classifier(classifier) is classifier and quiet(recwarn)
    assert as_classifier("efficientnet_lite0").preprocess.crop == (224, 224)
    monkeypatch.setattr(zoo, "torchvision", lambda name: name)
    assert as_classifier("resnet50") == "resnet50"


@pytest.mark.parametrize(
    "model, words",
    [
        ("resnet5O", "efficientnet_lite0 or a torchvision model's name.*near it: .*resnet50.*zoo.timm"),
        (3, "model of type int must be"),
        (None, "model of type NoneType must be"),
    ],
)
def test_other_models_are_refused(model, words):
    with pytest.raises(ValueError, match=words) as error:
        mpx.explain(model, torch.rand(1, 3, 32, 32), **OPTIONS)
    assert "\n" not in str(error.value)
