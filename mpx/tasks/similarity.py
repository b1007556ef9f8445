"""Similarity: a network that embeds images; people read the cosine similarity to an embedding, or the share of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from mpx.data.datasets import images as list_images
from mpx.data.images import read_image
from mpx.data.reading import load_numpy
from mpx.errors import first_line
from mpx.models.classifier import Classifier
from mpx.tasks.base import Task, all_classes, first_tensor


class Similarity(Task):
    """The task of embeddings (B,D), compared with one or several.

    embeddings: (D,) or (N,D) to compare with; or instead images: a file, folder or glob, or a list of these, which the model
    embeds too; or texts, for a model that embeds texts. With one of them, the value is the cosine similarity, from -1 to 1.
    With several, it is the softmax over the N similarities times `scale`, as in CLIP's zero-shot classification; the target
    is the index of one of them, or its name. names: of the embeddings or images.
    """

    quantity = "similarity"
    low = -1.0
    support_unit = "cosine similarity"

    def __init__(
        self,
        embeddings: Tensor | None = None,
        names: Sequence[str] | None = None,
        scale: float = 100.0,
        texts: Sequence[str] | None = None,
        images: str | Path | Sequence[str | Path] | None = None,
    ):
        if sum(choice is not None for choice in (embeddings, texts, images)) != 1:
            raise ValueError(
                "task=similarity compares with embeddings, images or texts: give one of task.embeddings, task.images and "
                "task.texts"
            )
        self.texts = _checked_texts(texts, names) if texts is not None else None
        self.items = list_images(images) if images is not None else []
        self.embeddings = None if embeddings is None else _checked_embeddings(embeddings)
        count = len(self.embeddings if self.embeddings is not None else self.texts or self.items)
        names = names or self.texts or [item.name for item in self.items]
        if names and len(names) != count:
            raise ValueError(f"{len(names)} names do not fit {count} {'images' if self.items else 'embeddings'}")
        self.categories = tuple(names) if names else tuple(f"embedding {n}" for n in range(count))
        self.scale = scale
        if count > 1:
            self.quantity, self.low = "probability", 0.0
            self.support_unit = f"softmax of {scale:g} times the cosine similarities"

    def for_model(self, model: Classifier) -> Task:
        """Return the task of the embeddings of the texts or images by a model."""
        if self.embeddings is not None:
            return self
        if self.items:
            return Similarity(torch.cat([_embed_file(model, item.path) for item in self.items]), self.categories, self.scale)
        if model.embed_texts is None or self.texts is None:
            raise ValueError(
                "task.texts need a model that embeds texts, e.g. CLIP by model=hf: or give task.embeddings or task.images"
            )
        return Similarity(model.embed_texts(self.texts), self.texts, self.scale)

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the cosine similarities (count,N). A network with image and text embeddings gives those of its images."""
        if self.embeddings is None:
            raise ValueError("task.texts and task.images are not embedded yet: give the task to explain() or with_task()")
        vectors = _vectors(raw)
        if vectors is None or vectors.ndim != 2 or vectors.shape != (count, self.embeddings.shape[1]):
            actual = type(raw).__name__ if vectors is None else tuple(vectors.shape)
            raise ValueError(
                f"task=similarity needs embeddings (B, {self.embeddings.shape[1]}), as the ones to compare with are, and "
                f"the model gives {actual} for B={count}"
            )
        return F.normalize(vectors, dim=1) @ self.embeddings.to(vectors).T

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled similarities (B,N) and the targets; of one embedding its similarity (B,1), unscaled."""
        return (output if output.shape[1] == 1 else self.scale * output), targets

    def answers(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the softmax over the embeddings; None of one."""
        return None if output.shape[1] == 1 else all_classes((self.scale * output).softmax(1))


def from_file(
    embeddings: str | None = None,
    names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    images: str | Sequence[str] | None = None,
    scale: float = 100.0,
) -> Similarity:
    """Return the task of the embeddings in a .npy file, of images or of texts."""
    if embeddings is None:
        return Similarity(None, names, scale, texts, images)
    try:
        vectors = torch.from_numpy(np.asarray(load_numpy(embeddings)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"task.embeddings={embeddings!r} must be a .npy file of embeddings: {first_line(error)}") from error
    return Similarity(vectors, names, scale, texts, images)


def _vectors(raw: Any) -> Tensor | None:
    """Return the embeddings (B,D) of a network's output."""
    return raw.image_embeds if hasattr(raw, "image_embeds") else first_tensor(raw)  # foreign: CLIP of Hugging Face


@torch.no_grad()
def _embed_file(model: Classifier, file: Path) -> Tensor:
    """Return the embedding (1,D) of an image file by a model."""
    image = read_image(file, model.channels)
    if model.preprocess:
        image = model.preprocess(image, model.channels)
    x = image if isinstance(image, Tensor) else to_tensor(image)
    vectors = _vectors(model.raw_output(x[None].to(model.device)))
    if vectors is None or vectors.ndim != 2:
        actual = "no tensor" if vectors is None else f"an output of shape {tuple(vectors.shape)}"
        raise ValueError(f"task.images need a model that gives embeddings (B,D), and {model.name} gives {actual}")
    return vectors


def _checked_texts(texts: Sequence[str], names: Sequence[str] | None) -> list[str]:
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"task.texts={texts!r} must be a list of texts, e.g. task.texts=[a cat,a dog]")
    if names is not None:
        raise ValueError("task.texts are names themselves: leave task.names out")
    return list(texts)


def _checked_embeddings(embeddings: Tensor) -> Tensor:
    """Return embeddings (D,) or (N,D) as (N,D), each of length 1."""
    vectors = torch.as_tensor(embeddings).detach()
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not vectors.isfinite().all() or not vectors.any(1).all():
        raise ValueError(f"embeddings of shape {tuple(vectors.shape)} must be (D,) or (N,D), finite and not zero")
    return F.normalize(vectors.float(), dim=1)
