"""Quantus' metrics of mpx's maps, and mpx as the method that Quantus explains with."""

from functools import partial

import numpy as np
import pytest
import torch
from planted import SquareNet, square_photo

import mpx
from mpx.metrics.quantus_metrics import quantus as metric

pytestmark = pytest.mark.slow
quantus = pytest.importorskip("quantus")
NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
OPTIONS = {"perturbation": "mean_color", "mask_size": 8, "steps": 10, "jitter": 0}
SIX = {
    "FaithfulnessCorrelation": {"nr_runs": 10, "subset_size": 64},
    "FaithfulnessEstimate": {"features_in_step": 64},
    "MonotonicityCorrelation": {"features_in_step": 64, "nr_samples": 4},
    "Sparseness": {},
    "Complexity": {},
    "MaxSensitivity": {"nr_samples": 2},
}
OFF = {"disable_warnings": True, "display_progressbar": False}


def test_quantus_evaluates_mpx_beside_captum():
    metrics = {name: getattr(quantus, name)(return_aggregate=False, **options, **OFF) for name, options in SIX.items()}
    found = quantus.evaluate(
        metrics=metrics, xai_methods={"mpx": mpx.quantus_explain, "Saliency": quantus.explain}, model=NET,
        x_batch=PHOTOS.numpy().copy(), y_batch=np.ones(3, int), agg_func=np.mean,
        explain_func_kwargs={"options": OPTIONS, "method": "Saliency"}, verbose=False, progress=False,
    )  # fmt: skip
    assert np.isfinite([[*results.values()] for results in found.values()]).all() and set(found["mpx"]) == set(SIX)
    assert found["mpx"]["FaithfulnessCorrelation"] > 0


@pytest.mark.parametrize("name", SIX)
def test_a_metric_by_its_name_is_quantus_own(name):
    model = mpx.Classifier(NET)
    e = mpx.explain(model, PHOTOS, 1, **OPTIONS)
    ours = mpx.evaluate(e, model, {"q": partial(metric, name=name, options=SIX[name])})["q"].numpy()
    if name == "MaxSensitivity":  # explains again
        assert np.isfinite(ours).all() and (ours > 0).all()
        return
    np.random.seed(0)
    stored = e.saliency.half().float().numpy()  # what a run evaluates
    evaluate = getattr(quantus, name)(return_aggregate=False, **SIX[name], **OFF)
    theirs = evaluate(model=NET, x_batch=PHOTOS.numpy().copy(), y_batch=np.ones(3, int), a_batch=stored, device="cpu")
    assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"name": "Sparsness"}, "near it: Sparseness"),
        ({"name": "RelevanceMassAccuracy"}, "RelevanceMassAccuracy: "),  # it needs regions
    ],
)
def test_mistakes(options, words):
    model = mpx.Classifier(NET)
    e = mpx.explain(model, PHOTOS, 1, **OPTIONS)
    with pytest.raises(ValueError, match=words):
        mpx.evaluate(e, model, {"q": partial(metric, **options)})
