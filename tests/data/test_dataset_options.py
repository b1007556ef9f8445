"""Every option of the group dataset: its keys are the function's parameters, and a folder without images is one sentence."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_method
from omegaconf import OmegaConf

from mpx import config
from mpx.data.items import named_items

OPTIONS = sorted((Path(__file__).parents[2] / "configs/dataset").glob("*.yaml"))
WITH_ROOT = ("folder", "imagenet", "voc", "pets", "cub")


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_keys_are_the_functions_parameters(path):
    options = {key: value for key, value in OmegaConf.load(path)._content.items() if key not in ("_target_", "_convert_")}
    parameters = inspect.signature(get_method(OmegaConf.load(path)["_target_"])).parameters
    assert options.keys() == parameters.keys()
    for key, value in options.items():  # a default of the function is a default of the menu
        default = parameters[key].default
        if default is not inspect.Parameter.empty and not value._is_interpolation():
            assert value._value() == default, key


@pytest.mark.parametrize("name", WITH_ROOT)
def test_an_empty_root_is_one_sentence(name, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="x") as error:
        config.build(config.compose(f"dataset={name}", f"dataset.root={tmp_path}/x").dataset, "dataset")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="root"):
        config.build(config.compose(f"dataset={name}").dataset, "dataset")


@pytest.mark.parametrize(
    "items, names",
    [
        ([], "the dataset's function returned no images"),
        (["a.png"], r"returned a list with 'a.png': it must return a list of Item\(path, label\)"),
        (None, "returned NoneType: it must return a list"),
    ],
)
def test_a_dataset_that_is_no_list_of_items_is_refused(items, names):
    with pytest.raises(ValueError, match=names):
        named_items(items)
