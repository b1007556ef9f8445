"""Similarity: a network that embeds images; people read the cosine similarity to an embedding, or the share of a text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.errors import first_line
from mpx.tasks.base import Task, all_classes, first_tensor


class Similarity(Task):
    """The task of embeddings (B,D), compared with one or several.

    embeddings: (D,) or (N,D), e.g. of another image or of texts. With one, the value is the cosine similarity, from -1 to 1.
    With several, it is the softmax over the N similarities times `scale`, as in CLIP's zero-shot classification; the target
    is the index of one of them, or its name. names: of the embeddings. texts: instead of embeddings, for a model that embeds
    texts too; they are the names.
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
    ):
        if (embeddings is None) == (texts is None):
            raise ValueError("task=similarity compares with embeddings or with texts: give task.embeddings or task.texts")
        self.texts = _checked_texts(texts, names) if texts is not None else None
        self.embeddings = None if embeddings is None else _checked_embeddings(embeddings)
        count = len(self.embeddings if self.embeddings is not None else self.texts or ())
        names = self.texts or names
        if names is not None and len(names) != count:
            raise ValueError(f"{len(names)} names do not fit {count} embeddings")
        self.categories = tuple(names) if names else tuple(f"embedding {n}" for n in range(count))
        self.scale = scale
        if count > 1:
            self.quantity, self.low = "probability", 0.0
            self.support_unit = f"softmax of {scale:g} times the cosine similarities"

    def for_model(self, embed_texts: Callable[[list[str]], Tensor] | None) -> Task:
        """Return the task of the texts' embeddings by a model."""
        if self.texts is None:
            return self
        if embed_texts is None:
            raise ValueError("task.texts need a model that embeds texts, e.g. CLIP by model=hf: or give task.embeddings")
        return Similarity(embed_texts(self.texts), self.texts, self.scale)

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the cosine similarities (count,N). A network with image and text embeddings gives those of its images."""
        if self.embeddings is None:
            raise ValueError("task.texts are not embedded yet: give the task to explain(), or to Classifier.with_task")
        vectors = raw.image_embeds if hasattr(raw, "image_embeds") else first_tensor(raw)  # foreign: CLIP of Hugging Face
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
    scale: float = 100.0,
) -> Similarity:
    """Return the task of the embeddings in a .npy file, or of texts."""
    if embeddings is None:
        return Similarity(None, names, scale, texts)
    try:
        vectors = np.load(embeddings, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"task.embeddings={embeddings!r} must be a .npy file of embeddings: {first_line(error)}") from error
    return Similarity(torch.from_numpy(vectors), names, scale, texts)


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
