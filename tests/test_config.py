"""The menu: every file builds, every mistake is one sentence, the library's defaults are config.yaml's."""

import inspect
import re
from itertools import zip_longest

import pytest
import torch
from contexts import regularizer_context
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mpx import config, config_plan, explain
from mpx.cli.arguments import prepare
from mpx.config_errors import error_sentence
from mpx.config_schema import INTERPOLATED, SCHEMA, to_plain
from mpx.learning.method import Method
from mpx.operators import requires_area

GROUPS = sorted(path.name for path in config.CONFIGS.iterdir() if path.is_dir())


def test_defaults_build():
    method = config.build_method(config.compose())
    assert (
        set(method.regularizers) == {"l1", "tv"} and len(method.image_augmentations) == 1 and not method.input_augmentations
    )


LISTS = ("metric", "logger", "callbacks")  # of which any number may be chosen
ELSEWHERE = ("experiment", "protocol")  # built in cli/test_menu.py and perturbations/test_tokens.py, runs/test_evaluation.py
SWAPPED = [
    group
    for group in GROUPS
    if group not in ("model", "dataset", "regularizer", "augment", "sweep", "cluster", "task", *LISTS, *ELSEWHERE)
]


@pytest.mark.parametrize(
    "overrides",
    [
        [override for override in overrides if override]  # the first option of each group, the second of each, and so on
        for overrides in zip_longest(*([f"{group}={name}" for name in config.options(group)] for group in SWAPPED))
    ]
    + [[f"{group}=[{','.join(config.options(group))}]"] for group in LISTS],
    ids=",".join,
)
def test_every_option_builds(overrides):
    cfg = config.compose(*overrides)
    for group in {override.partition("=")[0] for override in overrides} - {"trainer"}:
        if OmegaConf.is_dict(cfg.get(group)) and "_target_" in cfg[group]:
            cfg.area = 0.1 if requires_area(config.build(cfg[group], group)) else cfg.area
    assert isinstance(config.build_method(cfg), Method)


def test_one_yaml_has_the_address_of_a_ray_cluster():
    """For launch=ray, one run, and for the jobs of a sweep."""
    address = OmegaConf.load(config.CONFIGS / "ray.yaml")
    assert "address" in address and config.compose("launch=ray").launch == address
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    assert config.compose("cluster=ray", choices=True).hydra.launcher.ray.init == address


def test_library_defaults_are_the_manuals():
    cfg = config.compose()
    choices = {"explainer", "perturbation", "mask", "score", "ranking", "gradient", "optimizer", "scheduler", "stop"}
    others = {"model", "images", "target", "task", "regularizers", "method", "on_step", "progress"}
    manual = OmegaConf.to_container(cfg, resolve=True)
    for key, parameter in inspect.signature(explain).parameters.items():
        if key in choices and parameter.default:
            path = config.CONFIGS / key / f"{parameter.default}.yaml"
            assert OmegaConf.load(path)._target_ == cfg[key]._target_
            assert config.option(key, parameter.default, **manual).keywords == config.build(cfg[key], key).keywords
        elif key not in others | choices:
            assert parameter.default == manual[key], key


@pytest.mark.parametrize("group", ["perturbation", "score", "regularizer", "augment"])
def test_yaml_defaults_are_the_functions(group):
    """A function called bare does what its option does."""
    for name in config.options(group):
        part = config.option(group, name, noise=0.1, jitter=1, flip=0.1)
        for key, value in part.keywords.items():
            default = inspect.signature(part.func).parameters[key].default
            if default is not inspect.Parameter.empty:
                assert default == value or list(default) == list(value), f"{group}/{name}.yaml: {key}"


def test_user_line_composes():
    method = config.build_method(config.compose("perturbation=blur_median", "lambda_tv=0.2"))
    assert method.perturbation.func.__name__ == "blur_median" and method.regularizers["tv"][0] == 0.2


def test_predecessors_constants():
    """shared/facts: gildenblat 2017."""
    cfg = config.compose("experiment=gildenblat2017")
    method = config.build_method(cfg)
    assert cfg.model.name == "vgg19" and (cfg.lr, method.steps, cfg.mask_size) == (0.1, 500, 28)
    assert method.perturbation.func.__name__ == "blur_median" and method.perturbation.keywords == {"kernel_size": 11}
    assert (
        method.optimizer.func is torch.optim.Adam
        and method.mask.keywords["sigma"] == 0
        and method.mask.keywords["init"] == "ones"
    )
    assert not method.image_augmentations and len(method.input_augmentations) == 1
    (l1, mean_l1), (tv, mean_tv) = method.regularizers["l1"], method.regularizers["tv"]
    assert (l1, tv) == (0.01, 0.2)
    s = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(mean_l1(s, regularizer_context(s)), s.mean((1, 2, 3)))
    rows, cols = (s[:, :, :-1] - s[:, :, 1:]).abs() ** 3, (s[:, :, :, :-1] - s[:, :, :, 1:]).abs() ** 3
    torch.testing.assert_close(mean_tv(s, regularizer_context(s)), rows.mean((1, 2, 3)) + cols.mean((1, 2, 3)))


def test_a_part_has_options_of_its_own():
    """The others are the file's; root keys that it reads are config.yaml's."""
    root = {"mask_size": 28, "steps": 60}
    for group, name, options in (
        ("perturbation", "blur_gaussian", {"sigma": 3.0}),
        ("mask", "grid", {"init": "disc"}),
        ("regularizer", "tv", {"beta": 2.0}),
        ("scheduler", "linear", {"end_factor": 0.5}),
    ):
        assert config.part(group, name, **options).keywords == config.option(group, name, **root).keywords | options
    for arguments, options, sentence in (
        (("perturbation", "blur_gaussian"), {"sigm": 3}, "perturbation.sigm is not an option of blur_gaussian; near"),
        (("perturbation", "blur"), {}, "perturbation='blur' is not an option; near it: blur_"),
        (("task", "regression"), {}, "'task' is not a group of parts: choose one of perturbation, "),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            config.part(*arguments, **options)


def test_any_optimizer_by_its_path():
    overrides = "optimizer=adam", "optimizer._target_=torch.optim.RMSprop", "+optimizer.momentum=0.5"
    method = config.build_method(config.compose(*overrides))
    assert isinstance(method.optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.RMSprop)


def test_a_strength_of_zero_turns_an_augment_off():
    method = config.build_method(config.compose("jitter=0", "noise=0.1", "flip=0.5"))
    assert not method.image_augmentations and [a.func.__name__ for a in method.input_augmentations] == ["noise", "flip"]


@pytest.mark.parametrize(
    "override, names",
    [
        ("+foo=1", "there is no key foo"),
        ("~perturbation", "perturbation cannot be left out: choose one of black, "),
        ("score=null", "score cannot be left out: choose one of "),
        ("+lambda_foo=1", "there is no regularizer foo"),
        ("+perturbation.kernel=3", "perturbation.kernel is not an option of blur_gaussian; near it: kernel_size"),
        ("perturbation.sigma=abc", "perturbation.sigma='abc' must be of type float"),
        ("lambda_tv=abc", "lambda_tv='abc' must be a number"),
        ("lambda_tv=-1", "lambda_tv=-1 must be a number, 0 or larger"),
        ("noise=abc", "noise='abc' must be a number"),
        ("game=delete", "game='delete' must be one of"),
        ("precision=64", "precision='64' must be"),
        ("perturbation._target_=mpx.perturbations.blur.blurr", "mpx.perturbations.blur has no blurr; near it: "),
        ("perturbation._target_=nosuch.blur", "perturbation: _target_ nosuch.blur: there is no module nosuch"),
        ("perturbation._target_=mpx.perturbations.blur", "this is no function or class"),
        ("~perturbation._target_", "perturbation has no _target_: its YAML must name"),
        ("perturbation._partial_=false", "blur_gaussian: add the line _partial_: true"),
        ("+score.foo=1", "score.foo is not an option of steep_probability; near it: knee"),
        ("+metric={_target_: mine.coverage}", "a YAML that metric= chooses adds nothing: its first line must be # @package"),
        ("+regularizers._target_=mine.binary", "regularizers._target_='mine.binary' is no part: write the part's name"),
        ("~lambda_tv", "lambda_tv is missing: the YAML of this part must set it at the root"),
    ],
)
def test_an_error_while_building_names_the_option(override, names):
    with pytest.raises(ValueError, match=names):
        config.build_method(config.compose(override))


@pytest.mark.parametrize(
    "node, names",
    [
        ({"_target_": "lost.s"}, "dataset: lost.s raised KeyError: 'path'"),
        ({"_target_": "lost.j"}, "dataset: lost.j raised JSONDecodeError: Expecting value: line 1 column 1 (char 0) (at "),
        ({"_target_": "mpx.data.datasets.sample", "_partial_": True}, "leave out the line _partial_: true"),
        ({"_target_": "this.s"}, "dataset: _target_ this.s: importing this raised ZeroDivisionError: division by zero"),
        ({"_target_": "that.s"}, "dataset: _target_ that.s: importing that failed: No module named 'nosuch'"),
        ({"_target_": "lost.s", "of": [{"_target_": "lost.t"}]}, "dataset.of.0: _target_ lost.t: lost has no t; near it: "),
        ({"_target_": "builtins.dict", "a": {"_target_": "lost.s", "b": 1}}, "dataset: lost.s raised TypeError: s() got"),
    ],
)
def test_an_error_of_a_dataset_names_its_function(node, names, tmp_path, monkeypatch):
    (tmp_path / "this.py").write_text("1 / 0")
    (tmp_path / "lost.py").write_text("import json\ndef s():\n    return {}['path']\ndef j():\n    json.loads('')")
    (tmp_path / "that.py").write_text("import nosuch")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=re.escape(names)):
        config.build(node, "dataset")


KINDS = {"StringNode": "text", "IntegerNode": "a whole number", "FloatNode": "a number", "BooleanNode": "true or false"}


@pytest.mark.parametrize("key, node", [pair for pair in SCHEMA.items() if type(pair[1]).__name__ in KINDS])
def test_a_value_of_another_type_is_one_sentence(key, node):
    for value in ["{a:five}", *([] if key in ("limit", "threads", "objective") else ["null"])]:
        with pytest.raises(HydraException) as error:
            config.compose(f"{key}={value}")
        told = {"null": "null"}.get(value, "{'a': 'five'}")
        assert error_sentence(error.value).startswith(f"{key}={told} must be {KINDS[type(node).__name__]}: ")


@pytest.mark.parametrize(
    "override, names",
    [
        ("+callbacks={mine: {_target_: mpx.Classifier, _partial_: true}}", "callbacks.mine: .*Classifier must derive from"),
        ("+logger.mine={_target_: mpx.Classifier, _partial_: true}", "logger.mine: .*Classifier must derive from"),
        ("model={_target_: builtins.dict}", "model: builtins.dict returned dict: it must return a Classifier"),
    ],
)
def test_a_class_of_another_kind_is_refused(override, names):
    with pytest.raises(ValueError, match=names):
        config_plan.compose_plan(override).build_classifier(torch.device("cpu"))


def test_a_root_key_that_nothing_chosen_reads_is_told():
    words = "mask_size=14 has no effect: nothing that is chosen here reads it; mask=.*grid.* would"
    with pytest.warns(UserWarning, match=words):
        config.method("quick", "mask=elements", "mask_size=14", "lr=0.5")
    with pytest.warns(UserWarning, match=words):
        config.warn_of_unread(config.compose("mask=elements"), ["mask=elements", "mask_size=14"])  # as the command does
    with pytest.warns(UserWarning, match="lr=0.5 has no effect: .*optimizer=.*row_adam.* would"), pytest.raises(ValueError):
        explain("none", [], lr=0.5, optimizer=torch.optim.SGD)
    code = inspect.getsource(config.build_method) + repr(config.METHOD_VALUES) + inspect.getsource(config_plan)
    assert [key for key in SCHEMA if not re.search(rf"""(cfg\.|["'/]){key}\b""", code)] == sorted(INTERPOLATED, reverse=True)


def test_config_is_the_manual():
    """Every root key of the composed config has a line with its meaning in a YAML file, and help shows it."""
    from mpx.cli.menu import help_text

    cfg, text = config.compose(), help_text()
    for key in cfg:
        if not OmegaConf.is_dict(cfg[key]) and key != "scheduler":
            assert f"\n  {key}=" in text, key
    for group in GROUPS:
        for name in config.options(group):
            assert name in text
            first = (config.CONFIGS / group / f"{name}.yaml").read_text().splitlines()[0]
            assert first.startswith("#"), f"{group}/{name}.yaml must open with what it is"


@pytest.mark.parametrize("override", ["stop=null", "metric=null", "explainer=null", "augment=null"])
def test_null_leaves_a_group_out_whatever_chose_it(override):
    group = override.split("=")[0]
    chosen = {"stop": ["experiment=quick"], "explainer": ["explainer=gradcam"]}.get(group, [])
    cfg = config.compose(*chosen, override)
    node = {"metric": "metrics", "augment": "image_augmentations"}.get(group, group)
    assert not cfg.get(node)


@pytest.mark.parametrize("group, value", [("regularizer", "tv,l1"), ("metric", "deletion,road"), ("logger", "csv,wandb"),
                                          ("callbacks", "early_stopping,x"), ("augment", "noise,flip")])  # fmt: skip
def test_several_options_are_a_list(group, value):
    with pytest.raises(HydraException) as error:
        config.compose(f"{group}={value}")
    assert error_sentence(error.value) == f"{group}={value}: write {group}=[{value}] for several, or add -m to sweep"


def test_two_sources_of_images_or_two_methods_are_refused():
    with pytest.raises(ValueError, match="images=a.png and dataset=sample name two sources"):
        config_plan.compose_plan("images=a.png", "dataset=sample")
    with pytest.raises(ValueError, match="^experiment=quick experiment=rise: give one method; -m experiment=quick,rise"):
        prepare(["experiment=quick", "experiment=rise"])
    with pytest.raises(ValueError, match="share=3 must be auto, array, or a part of the images such as 0/4"):
        prepare(["share=3"])


def test_a_misspelt_perturbation_of_the_metrics_is_told_with_what_was_meant():
    with pytest.raises(ValueError, match="other_perturbations='noize' is not an option; near it: noise"):
        config_plan.compose_plan("other_perturbations=[noize]")


def test_a_number_from_the_environment_is_one(monkeypatch):
    values = {"steps": 3, "lambda_l1": 0.25, "mask_size": 12, "precision": 16, "target": "tiger cat"}
    for key, value in values.items():
        monkeypatch.setenv(key, str(value))
    read = config.compose(*(f"{key}=${{oc.env:{key},7}}" for key in values), "area=[${oc.env:lambda_l1},0.5]")
    typed = config.compose(*(f"{key}={value}" for key, value in values.items()), "area=[0.25,0.5]")
    assert to_plain(read) == to_plain(typed)


def test_one_band_is_a_number():
    assert config_plan.compose_plan("bands=1", "model=synthetic").build_classifier(torch.device("cpu")).bands == (1,)
