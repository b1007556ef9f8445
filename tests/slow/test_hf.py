"""Networks of Hugging Face from a folder: from the command line and in a few lines of Python."""

import json

import pytest
import torch
from small_networks import equal_states, state
from torch import nn

from mpx import explain
from mpx.data.datasets import sample
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess
from mpx.models import hf
from mpx.tasks.detection import Detection
from mpx.tasks.segmentation import Segmentation
from mpx.tasks.similarity import Similarity

transformers = pytest.importorskip("transformers")
SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
PHOTO = str(sample()[0].path)
OPTIONS = dict(perturbation="mean_color", mask_size=4, steps=3, jitter=0)
# kind -> (task in Python, overrides of the command, target)
TASKS = {
    "vit": (None, [], "dog"),
    "segformer": (Segmentation("image"), ["task=segmentation", "task.region=image"], 1),
    "detr": (Detection(min_score=0), ["task=detection", "task.min_score=0"], "top1"),
    "yolos": (Detection(min_score=0), ["task=detection", "task.min_score=0"], "top1"),
    "deformable": (Detection(min_score=0), ["task=detection", "task.min_score=0"], "top1"),
    "clip": (Similarity(texts=["a cat", "a dog"]), ["task=similarity", "task.texts=[a cat,a dog]"], "a dog"),
}


def resnet():
    sides = [8, 8, 8, 8]
    return transformers.ResNetConfig(embedding_size=8, hidden_sizes=sides, depths=[1] * 4, layer_type="basic",
                                     out_features=["stage2", "stage3", "stage4"])  # fmt: skip


def built(kind):
    """Return a small random network of a kind, and its image processor."""
    t = transformers
    if kind == "vit":
        names = {0: "cat", 1: "dog", 2: "bird"}
        config = t.ViTConfig(**SMALL, image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()})
        return t.ViTForImageClassification(config), t.ViTImageProcessor(size={"height": 32, "width": 32})
    if kind == "segformer":
        config = t.SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
                                   decoder_hidden_size=16, num_labels=3)  # fmt: skip
        processor = t.SegformerImageProcessor(size={"height": 64, "width": 64})
        return t.SegformerForSemanticSegmentation(config), processor
    if kind == "yolos":
        config = t.YolosConfig(**SMALL, image_size=[64, 64], patch_size=16, num_detection_tokens=5, num_labels=4)
        return t.YolosForObjectDetection(config), t.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})
    if kind in ("detr", "deformable"):
        name = "Detr" if kind == "detr" else "DeformableDetr"
        sides = dict(encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                     encoder_ffn_dim=16, decoder_ffn_dim=16)  # fmt: skip
        config = getattr(t, name + "Config")(backbone_config=resnet(), use_timm_backbone=False, backbone=None, d_model=32,
                                             num_queries=5, num_labels=4, **sides)  # fmt: skip
        if kind == "deformable":
            config.num_feature_levels = 3
        processor = getattr(t, name + "ImageProcessor")(size={"shortest_edge": 64, "longest_edge": 100})
        return getattr(t, name + "ForObjectDetection")(config), processor
    text = dict(SMALL, vocab_size=13, max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    vision = dict(SMALL, image_size=32, patch_size=8)
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    processor = t.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    return t.CLIPModel(config), processor


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of each kind of network."""
    root = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    for kind in TASKS:
        for part in built(kind):
            part.save_pretrained(root / kind)
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", *"acdo", "t</w>", "g</w>", "ca", "cat</w>", "do", "dog</w>"]
    (root / "clip" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (root / "clip" / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n")
    return root


@pytest.mark.parametrize("kind", TASKS)
def test_a_folder_is_explained_by_the_command(kind, folders, mpx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, overrides, target = TASKS[kind]
    code, out, err = mpx("model=hf", f"model.name={folders / kind}", *overrides, f"target={target}", f"images={PHOTO}",
                         "perturbation=mean_color", "mask_size=4", "steps=3", "device=cpu")  # fmt: skip
    assert code == 0, err
    assert list(tmp_path.glob("outputs/**/masks/*.npz")) and (str(target) in out or target in (1, "top1"))


@pytest.mark.parametrize("kind", TASKS)
def test_a_batch_is_its_single_runs(kind, folders):
    task, _, target = TASKS[kind]
    classifier = hf.hf(str(folders / kind))
    photos = torch.stack([classifier.preprocess(read_image(item.path)) for item in sample()[:3]])
    options = dict(task=task, batch_size=2, deterministic=True, **OPTIONS)
    together = explain(classifier, photos, target, **options)
    alone = [explain(classifier, photo, target, **options) for photo in photos]
    assert torch.equal(together.saliency, torch.cat([e.saliency for e in alone]))
    assert torch.equal(together.value_before, torch.cat([e.value_before for e in alone]))


@pytest.mark.parametrize("kind", TASKS)
def test_a_bare_network_brings_what_its_folder_says(kind, folders, recwarn):
    task, _, target = TASKS[kind]
    network = getattr(transformers, type(built(kind)[0]).__name__).from_pretrained(folders / kind)
    explain(network, PHOTO, target, task=task, **OPTIONS)  # a first run, in which some networks register hooks of their own
    before = state(network)
    e = explain(network, PHOTO, target, task=task, **OPTIONS)
    assert not [w for w in recwarn if "mean and std" in str(w.message)]
    f = explain(hf.hf(str(folders / kind)), PHOTO, target, task=task, **OPTIONS)
    assert torch.equal(e.saliency, f.saliency) and e.classes == f.classes
    assert equal_states(before, state(network))


def test_a_network_that_was_not_loaded_warns():
    network = built("vit")[0]
    with pytest.warns(UserWarning, match="ViTForImageClassification does not say which mean and std") as warned:
        e = explain(network, torch.rand(1, 3, 32, 32), "dog", **OPTIONS)
    assert sum("mean and std" in str(warning.message) for warning in warned) == 1 and e.classes == ["dog"]


def test_the_input_is_that_of_the_image_processor(folders):
    photo = read_image(PHOTO)
    square = photo.crop((0, 0, 256, 256))  # neither squashed nor cropped
    for kind in ("vit", "segformer", "detr"):
        classifier = hf.hf(str(folders / kind))
        processor = transformers.AutoImageProcessor.from_pretrained(folders / kind)
        theirs = processor(square, return_tensors="pt")["pixel_values"]
        x = classifier.preprocess(square)[None]
        torch.testing.assert_close(x * classifier.scale + classifier.shift, theirs, atol=0.02, rtol=0)
    assert hf.hf(str(folders / "clip")).preprocess == Preprocess((32, 32), 36, "bicubic")
    assert hf.hf(str(folders / "vit")).categories == ("cat", "dog", "bird")
    assert hf.hf(str(folders / "segformer")).categories is None  # LABEL_0, ...


def test_processors_rescale():
    x = torch.rand(3, 64, 64)
    for options in ({}, {"rescale_factor": 1 / 127.5, "rescale_offset": True}, {"include_top": False}):
        processor = transformers.EfficientNetImageProcessor(do_resize=False, do_center_crop=False, **options)
        theirs = torch.as_tensor(processor((x * 255).to(torch.uint8), return_tensors="pt")["pixel_values"][0])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in hf.normalisation(processor))
        torch.testing.assert_close(((x * 255).to(torch.uint8) / 255 - mean) / std, theirs, atol=1e-4, rtol=1e-4)


def test_texts_are_clips(folders):
    classifier = hf.hf(str(folders / "clip"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "clip")
    pixels = classifier.preprocess(read_image(PHOTO))[None]
    texts = ["a cat", "a dog"]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        clip = classifier.network.network
        theirs = clip(pixel_values=pixels * classifier.scale + classifier.shift, **tokens)
        ours = classifier.with_task(Similarity(texts=texts))(pixels)
    torch.testing.assert_close(ours * clip.logit_scale.exp(), theirs.logits_per_image, atol=1e-4, rtol=1e-4)
    assert not torch.equal(ours[:, 0], ours[:, 1])


def refusal(function, *arguments, **options):
    with pytest.raises(ValueError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusals(folders, monkeypatch, tmp_path):
    classifier = hf.hf(str(folders / "vit"))
    pixels = torch.rand(1, 3, 32, 32)
    for kind, task, words in [
        ("vit", "segmentation", "set task=classification"),
        ("vit", "detection", "set task=classification"),
        ("segformer", None, "set task=segmentation"),
        ("segformer", "detection", "set task=segmentation"),
        ("detr", None, "set task=detection"),
        ("deformable", "segmentation", "set task=detection"),
        ("clip", None, "set task=similarity"),
        ("clip", "segmentation", "set task=similarity"),
        ("vit", Similarity(texts=["a"]), "task.texts need a model that embeds texts"),
    ]:
        network = hf.hf(str(folders / kind))
        side = 32 if kind in ("vit", "clip") else 64
        assert words in refusal(explain, network, torch.rand(1, 3, side, side), task=task, **OPTIONS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "or a hub id and a connection" in refusal(hf.hf, "google/vit-base-patch16-224")
    assert "save_pretrained" in refusal(hf.hf, str(tmp_path))
    assert "architecture BertModel: it must end in one of" in refusal(hf.hf, _bert(tmp_path / "bert"))
    assert "is no file" in refusal(hf.hf, str(folders / "vit"), "w.pth")
    built("clip")[0].save_pretrained(tmp_path / "clip")
    built("clip")[1].save_pretrained(tmp_path / "clip")
    mute = hf.hf(str(tmp_path / "clip"))
    assert "need the tokenizer" in refusal(explain, mute, pixels, task=Similarity(texts=["a"]), **OPTIONS)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "pip install" in refusal(hf.hf, str(folders / "vit"))
    assert isinstance(classifier.network, nn.Module)


def _bert(folder):
    transformers.BertConfig(architectures=["BertModel"]).save_pretrained(folder)
    return str(folder)


def test_weights_may_be_a_file_or_random(folders, tmp_path):
    classifier = hf.hf(str(folders / "vit"))
    torch.save(classifier.network.state_dict(), tmp_path / "w.pth")
    drawn, loaded = hf.hf(str(folders / "vit"), None), hf.hf(str(folders / "vit"), str(tmp_path / "w.pth"))
    weights = [c.network.classifier.weight for c in (classifier, drawn, loaded)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    state_dict = {k: v for k, v in classifier.network.state_dict().items() if not k.startswith("classifier")}
    network = built("vit")[0]
    network.save_pretrained(tmp_path / "half", state_dict=state_dict)
    built("vit")[1].save_pretrained(tmp_path / "half")
    assert "lack 2 tensors" in refusal(hf.hf, str(tmp_path / "half"))
