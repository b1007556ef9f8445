"""Layers inside a network: which one is chosen, and its output as a map."""

import pytest
import torch
from layered_networks import classifier, network, vit

from mpx.models.layers import as_map, cached, default_layer

PHOTOS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("min_map_fraction, name", [(0.5, "0"), (0.25, "2"), (0.2, "2"), (0.125, "3"), (1.0, "0")])
def test_the_last_layer_on_every_path_with_a_fine_map_is_chosen(min_map_fraction, name):
    """Maps of 16, 8, 8 and 4 cells on 32 px; those within the second block come later, but are bypassed."""
    assert default_layer(classifier(network()), PHOTOS, min_map_fraction) == f"network.{name}"


def test_a_transformers_middle_block_is_chosen():
    name = default_layer(classifier(vit()), PHOTOS, 0.125)
    assert name in ("network.encoder.layers.encoder_layer_1", "network.encoder.layers.encoder_layer_2")


@pytest.mark.parametrize(
    "shape, size, cells",
    [
        ((2, 5, 8, 8), (32, 32), (5, 8, 8)),
        ((2, 8, 8, 5), (32, 32), (5, 8, 8)),
        ((2, 5, 4, 7), (32, 56), (5, 4, 7)),
        ((2, 4, 7, 5), (32, 56), (5, 4, 7)),
        ((2, 5, 13, 17), (200, 270), (5, 13, 17)),
        ((2, 17, 5), (32, 32), (5, 4, 4)),
        ((2, 21, 5), (32, 32), (5, 4, 4)),
    ],
)
def test_every_layout_becomes_a_map_and_comes_back(shape, size, cells):
    out = torch.rand(shape)
    features, back = as_map(out, size)
    assert features.shape[1:] == cells and torch.equal(back(features), out)
    changed = back(features * 0)
    kept = shape[1] - 16 if len(shape) == 3 else 0
    assert torch.equal(changed[:, :kept], out[:, :kept]) and (changed[:, kept:] == 0).all()


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1), (2, 3, 5), (2, 3, 8, 16), (2, 4, 8, 8, 3)])
def test_other_outputs_are_no_map(shape):
    assert as_map(torch.rand(shape), (32, 32)) is None


def test_cached_until_a_weight_changes():
    net, computed = classifier(network()), []
    for _ in range(2):
        assert cached(net, "key", lambda: computed.append(1) or len(computed)) == 1
    net.network[0].bias.data.zero_()
    next(net.parameters()).add_(1)
    assert cached(net, "key", lambda: computed.append(1) or len(computed)) == 2
