"""The synthetic images and their network: the evidence is exactly where the annotations say."""

import pickle

import numpy as np
import pytest
import torch
from choices import PERTURBATIONS
from torch.nn import functional

from mpx import config, config_plan
from mpx.data.annotations import Annotation
from mpx.data.images import read_image
from mpx.data.synthetic import CELL, CELLS, NAMES, NOISE, SEEDS, SHAPES, SMALL, cells_of, draw, synthetic, textures
from mpx.data.targets import region_of, resolve_targets
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.models.synthetic import FULL, NETWORKS, THRESHOLD, Synthetic, embed_texts

NET = Synthetic()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Items, photos (B,3,128,128), targets (B,), and masks (B,1,128,128) of the target's region."""
    items = pickle.loads(pickle.dumps(synthetic(tmp_path_factory.mktemp("synthetic"), 16)))
    photos = torch.stack([NET.preprocess(read_image(item.path)) for item in items])
    targets = torch.tensor([NAMES.index(item.label) for item in items])
    masks = torch.stack([Annotation(item.regions[item.label], (128, 128), NET.preprocess).mask() for item in items])[:, None]
    return items, photos, targets, masks


@torch.no_grad()
def probability(photos, targets):
    return NET(photos).softmax(1)[range(len(photos)), targets]


def test_images_depend_on_size_seed_and_number_only(tmp_path):
    def pictures(*arguments):
        return [np.asarray(read_image(item.path)) for item in synthetic(*arguments)]

    few, many, kept = pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 8), pictures(tmp_path / "b", 8)
    assert all((x == y).all() for x, y in zip(few + many, many[:3] + kept))
    assert not (pictures(tmp_path / "a", 1, 128, 1)[0] == few[0]).all()
    assert pictures(tmp_path / "a", 1, 96)[0].shape == (96, 96, 3)
    items = synthetic(tmp_path / "b", 8)
    assert [item.label for item in items] == [*NAMES, *NAMES] and len({item.name for item in items}) == 8
    assert {len(item.regions) for item in items} == {2, 3}  # with "cells"
    with pytest.raises(ValueError, match="count=0"):
        synthetic(tmp_path, 0)
    with pytest.raises(ValueError, match="size=64"):
        synthetic(tmp_path, 1, 64)


def test_pixels_are_equal_on_every_machine(tmp_path):
    """On every machine, so that numbers can be compared."""
    (item,) = synthetic(tmp_path, 1)
    pixels = np.asarray(read_image(item.path)).astype(int)
    assert (pixels.sum(), pixels[0, 0].tolist()) == (6262774, [137, 145, 152])


@pytest.mark.parametrize("channels", SEEDS)
def test_textures(channels):
    for texture in textures(channels):
        assert (texture.sum((1, 2)) == 0).all() and set(np.unique(texture)) == {-1, 1}
        assert (texture == texture[..., ::-1]).all()  # seen in a mirror it is the same


@pytest.mark.parametrize("shape", [*SHAPES, SMALL])
@pytest.mark.parametrize("c", range(4))
@pytest.mark.parametrize("channels", SEEDS)
def test_only_complete_cells_are_counted_on_any_ground(channels, c, shape):
    """The most that a filter can find in a shape and the worst ground there may be, out of step with its cells."""
    cells = cells_of(shape, 20, 20)
    inside = torch.tensor(np.asarray(draw(cells, 72)), dtype=torch.float64)
    weight = Synthetic(channels=channels).network.filters.weight.detach().double()
    tiled = torch.from_numpy(np.tile(textures(channels)[c], (1, 9, 9))).double().roll((20 % CELL, 20 % CELL), (1, 2))
    most_noise = max(127.5 - NOISE[0], NOISE[1] - 127.5) / 255
    result = functional.conv2d((tiled * inside * FULL)[None], weight)
    result += functional.conv2d(((1 - inside) * most_noise).expand(1, channels, 72, 72), weight.abs())
    for x, y in cells:
        assert abs(result[0, c, y, x] - FULL) < 1e-6
        result[0, c, y, x] = 0
    assert result.max() < THRESHOLD


def test_the_network_knows_its_classes(data):
    items, photos, targets, _ = data
    p = probability(photos, targets)
    assert p.min() > 0.96 and (NET(photos).argmax(1) == targets).all()
    logits = NET(photos)
    assert torch.allclose(logits[range(len(items)), targets], torch.tensor(8.0), atol=0.01)
    for item, row in zip(items, logits):  # half a shape of the others' class, and a region for each
        classes = [label for label in item.regions if label != CELLS]
        assert [round(row[NAMES.index(label)].item()) for label in classes] == [8, 4][: len(classes)]
        assert resolve_targets("label", row, item.label, NET.categories) == [row.argmax()]
        assert region_of(int(row.argmax()), item.regions, 5, NET.categories) is item.regions[item.label]
        assert {region.difficult for label, region in item.regions.items() if label != CELLS} == {len(classes) == 2}


def test_a_logit_depends_on_its_shape_alone(data):
    _, photos, targets, masks = data
    x = photos.clone().requires_grad_()
    logits = NET(x)[range(len(x)), targets]
    gradient = torch.autograd.grad(logits.sum(), x)[0].abs().amax(1, keepdim=True)
    assert ((gradient > 0) == masks).all()
    elsewhere = torch.rand(photos.shape, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    assert torch.allclose(NET(photos.where(masks, elsewhere))[range(len(x)), targets], logits, atol=1e-5)
    assert (probability(photos.where(masks, elsewhere), targets) > 0.96).all()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_removes_the_evidence(name, data):
    _, photos, targets, masks = data
    few = slice(0, 4)
    method = Method(config.option("perturbation", name), config.option("mask", "grid", mask_size=8), lambda *_: 0)
    problem = Objective(method, NET, photos[few], targets[few], list("abcd"))
    levels = problem.perturbation.sample(problem.rng.at("evaluation"))
    deleted = problem.perturbation.apply(levels, (~masks[few]).float())
    preserved = problem.perturbation.apply(levels, masks[few].float())
    # where the ground is filled in with what is around it, the shape may be smeared a little; none is left of its texture
    assert probability(deleted, targets[few]).max() < 0.05
    assert probability(preserved, targets[few]).min() > 0.95


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_a_shape_cut_out_and_enlarged_is_classified(mode, data):
    items, photos, targets, _ = data
    for item, photo, target in zip(items, photos, targets):
        x0, y0, x1, y1 = item.regions[item.label].boxes[0]
        crop = functional.interpolate(photo[None, :, y0:y1, x0:x1], (128, 128), mode=mode).clamp(0, 1)
        assert probability(crop, target[None]) > 0.95


def test_options_build_images_and_network(tmp_path):
    cfg = config.compose("model=synthetic", "dataset=synthetic", f"dataset.root={tmp_path}", "dataset.count=2")
    classifier = config_plan.build_classifier(cfg, torch.device("cpu"))
    items = config.build(cfg.dataset, "dataset")
    assert len(items) == 2 and classifier(classifier.preprocess(read_image(items[0].path))[None]).argmax() == 0


@pytest.mark.parametrize("channels", SEEDS)
def test_images_of_any_channels_are_read_and_classified(channels, tmp_path):
    items, net = synthetic(tmp_path, 4, 96, channels=channels), Synthetic(96, channels=channels)
    photos = torch.stack([net.preprocess(read_image(item.path, channels), channels) for item in items])
    assert photos.shape == (4, channels, 96, 96) and net(photos).argmax(1).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="channels=4 must be 1, 3, 6"):
        synthetic(tmp_path, 4, 96, channels=4)


@pytest.mark.parametrize("task", NETWORKS)
def test_each_network_says_what_is_in_the_image(task, data):
    """The numbers of each cell, pixel, box and embedding are those of the drawing."""
    items, photos, _, _ = data
    network, drawn = NETWORKS[task](8.0, 3), [{k: np.asarray(r.draw()) for k, r in item.regions.items()} for item in items]
    cells = torch.tensor([[one[name].sum() / CELL**2 if name in one else 0 for name in NAMES] for one in drawn])
    with torch.no_grad():
        output = network(photos)
    if network.categories == (CELLS,):
        torch.testing.assert_close(output[:, 0], cells.sum(1).float(), atol=0.01, rtol=0)
    elif isinstance(output, list):
        for one, item in zip(output, items):
            for label, region in item.regions.items():
                if label != CELLS:
                    assert tuple(one["boxes"][NAMES.index(label)].tolist()) == region.boxes[0]
            assert (one["boxes"].any(1) == (one["scores"] > 0.5)).all()
    elif isinstance(output, tuple):
        texts = embed_texts([f"a shape of {name}" for name in NAMES] + ["a cat"])
        similarities = functional.normalize(output.image_embeds) @ functional.normalize(texts).T
        assert (similarities.argmax(1) == cells.argmax(1)).all() and 0.05 < similarities.max() - similarities.min() < 0.2
    elif output.ndim == 4:
        truth = torch.tensor(np.stack([[one.get(name, np.zeros((128, 128), bool)) for name in NAMES] for one in drawn]))
        assert torch.equal(output.argmax(1), torch.cat([truth, ~truth.any(1, keepdim=True)], 1).int().argmax(1))
    else:
        torch.testing.assert_close(output, 8 * (cells / 12 - 0.25).float(), atol=0.01, rtol=0)


def test_the_task_chooses_the_network():
    cfg = config.compose("model=synthetic", "task=segmentation", "bands=[1]")
    classifier = config_plan.build_classifier(cfg, torch.device("cpu"))
    assert type(classifier.network) in NETWORKS.values() and classifier.categories == (*NAMES, "nothing")
    assert classifier.bands == (1,) and classifier(torch.zeros(1, 3, 128, 128)).shape == (1, 5, 128, 128)
