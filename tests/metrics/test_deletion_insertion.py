"""Deletion and insertion against RISE's loop written out, Quantus, and by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from scene import SIDE, classifier, context, photos, random_maps, square
from scipy.ndimage import convolve, gaussian_filter
from torch import nn

from mpx.metrics.base import MetricContext, as_metric
from mpx.metrics.baseline import baseline
from mpx.metrics.batched import class_probabilities
from mpx.metrics.deletion_insertion import area_under, deletion, insertion, probability_curve, saliency_ranks


def rise(network, image, saliency, target, mode, step):
    """One picture at a time, in normalised space, as the published loop goes."""
    mean = np.full((3, 1, 1), 0.5)
    x = (image.double().numpy() - mean) / 0.25
    dirac = np.zeros((11, 11))
    dirac[5, 5] = 1
    kernel = gaussian_filter(dirac, 5)
    blurred = np.stack([convolve(channel, kernel, mode="constant") for channel in x])
    start, finish = (x, np.zeros_like(x)) if mode == "deletion" else (blurred, x)
    start, size = start.copy(), x[0].size
    ranked = np.argsort(-saliency.numpy().ravel(), kind="stable")
    scores = []
    for i in range((size + step - 1) // step + 1):
        logits = network(torch.from_numpy(start)[None].float())
        scores.append(logits.softmax(1)[0, target].item())
        where = ranked[i * step : (i + 1) * step]
        start.reshape(3, -1)[:, where] = finish.reshape(3, -1)[:, where]
    scores = np.array(scores)
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1), scores


@pytest.mark.parametrize("step", [None, 50])
@pytest.mark.parametrize("metric", [deletion, insertion])
def test_is_rise(metric, step):
    rows, maps = context(), random_maps()
    maps[1] = (maps[1] * 4).round() / 4  # ties
    result = metric(maps, rows, step=step, max_batch=7)
    for row in range(2):
        expected = rise(rows.classifier.network, rows.images[row], maps[row], 1, metric.__name__, step or SIDE)[0]
        assert result[row].item() == pytest.approx(expected, abs=1e-5)


def test_a_photo_of_224_has_225_points_and_its_ends_are_the_photo_and_the_baseline():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)

    images = torch.rand(1, 3, 224, 224)
    points = probability_curve(
        random_maps(1, 224), MetricContext(Mean().eval(), images, torch.tensor([0])), images, torch.zeros_like(images)
    )
    assert points.shape == (1, 225)
    assert points[0, 0] == pytest.approx(torch.sigmoid(2 * images.mean()).item(), abs=1e-6)
    assert points[0, -1] == 0.5


def test_area_of_a_line_is_its_mean():
    assert area_under(torch.linspace(1, 0, 11)[None]).item() == pytest.approx(0.5)
    assert area_under(torch.tensor([[1.0, 0.0]])).item() == 0.5


def test_ties_go_in_reading_order():
    assert saliency_ranks(torch.zeros(1, 1, 2, 3)).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert saliency_ranks(torch.tensor([[[[0.0, 1.0], [1.0, 0.5]]]])).flatten().tolist() == [3, 0, 1, 2]


def test_the_mean_baseline_is_normalised_zero():
    model = classifier()
    blank = baseline(context(classifier=model), "mean")
    assert torch.allclose(torch.addcmul(model.shift, blank, model.scale), torch.zeros(1), atol=1e-6)


def test_blur_is_scipys_in_normalised_space():
    dirac = np.zeros((11, 11))
    dirac[5, 5] = 1
    model, image, rows = classifier(), photos(1), context(1)
    normalised = torch.addcmul(model.shift, image, model.scale)[0].numpy()
    expected = np.stack([convolve(channel, gaussian_filter(dirac, 5), mode="constant") for channel in normalised])
    blurred = baseline(rows, "blur")
    assert np.allclose(torch.addcmul(model.shift, blurred, model.scale)[0].numpy(), expected, atol=1e-5)
    assert torch.allclose(baseline(rows, "photo")[0, :, 3, 4], image[0].mean((1, 2)))
    assert (baseline(rows, 0.25) == 0.25).all()


@pytest.mark.parametrize("kind", ["grey", 2.0])
def test_an_unknown_baseline_is_refused(kind):
    with pytest.raises(ValueError, match="must be mean, photo, blur or a number"):
        as_metric(partial(deletion, baseline=kind))


def test_a_plain_function_has_no_mean_colour():
    with pytest.raises(ValueError, match="wrap it in mpx's Classifier"):
        deletion(square(), context(1, classifier=lambda x: x.mean((2, 3))))


def test_forwards_are_few():
    calls = []

    def model(x):
        calls.append(len(x))
        return x.mean((2, 3))

    result = class_probabilities(context(classifier=model), lambda row, number: photos()[row], 33, 20)
    assert result.shape == (2, 33) and calls == [20, 20, 20, 6]


@pytest.mark.slow
def test_is_quantus():
    quantus = pytest.importorskip("quantus")
    model, image, maps = classifier(), photos(1)[:, :1], random_maps(1)  # one colour: Quantus flips colours one by one
    points = probability_curve(maps, context(1), image, torch.zeros_like(image), 32)
    flips = quantus.PixelFlipping(
        features_in_step=32, perturb_baseline=0.0, abs=True, normalise=False, disable_warnings=True
    )
    theirs = flips(
        model=model, x_batch=image.numpy(), y_batch=np.array([1]), a_batch=maps.numpy(), device="cpu", softmax=True
    )
    assert np.allclose(np.array(theirs)[0], points[0, 1:].numpy(), atol=1e-5)


def test_batches_that_do_not_fit_are_halved():
    sizes = []

    class Hungry(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return classifier()(x)

    def make(row, which):
        return photos()[row] * (which + 1).view(-1, 1, 1, 1) / 7

    result = class_probabilities(context(classifier=Hungry()), make, 7, max_batch=8)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2]
    assert torch.equal(result, class_probabilities(context(), make, 7, max_batch=2))
    with pytest.raises(torch.OutOfMemoryError):
        class_probabilities(context(classifier=lambda x: Hungry()(x.repeat(4, 1, 1, 1))), make, 7, max_batch=8)
