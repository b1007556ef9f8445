"""Similarity: a network that embeds images; people read the cosine similarity to an embedding, or the share of a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.errors import first_line
from mpx.tasks.base import Task, first_tensor


class Similarity(Task):
    """The task of embeddings (B,D), compared with one or several.

    embeddings: (D,) or (N,D), e.g. of another image or of texts. With one, the value is the cosine similarity, from -1 to 1.
    With several, it is the softmax over the N similarities times `scale`, as in CLIP's zero-shot classification; the target
    is the index of one of them, or its name. names: of the embeddings.
    """

    quantity = "similarity"
    low = -1.0
    support_unit = "cosine similarity"

    def __init__(self, embeddings: Tensor, names: list[str] | None = None, scale: float = 100.0):
        vectors = torch.as_tensor(embeddings).detach()
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or not vectors.isfinite().all() or not vectors.any(1).all():
            raise ValueError(f"embeddings of shape {tuple(vectors.shape)} must be (D,) or (N,D), finite and not zero")
        if names is not None and len(names) != len(vectors):
            raise ValueError(f"{len(names)} names do not fit {len(vectors)} embeddings")
        self.embeddings = F.normalize(vectors.float(), dim=1)
        self.categories = tuple(names) if names else tuple(f"embedding {n}" for n in range(len(vectors)))
        self.scale = scale
        if len(vectors) > 1:
            self.quantity, self.low = "probability", 0.0
            self.support_unit = f"softmax of {scale:g} times the cosine similarities"

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the cosine similarities (count,N). A network with image and text embeddings gives those of its images."""
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


def from_file(embeddings: str, names: Sequence[str] | None = None, scale: float = 100.0) -> Similarity:
    """Return the task of the embeddings in a .npy file."""
    try:
        vectors = np.load(embeddings, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"task.embeddings={embeddings!r} must be a .npy file of embeddings: {first_line(error)}") from error
    return Similarity(torch.from_numpy(vectors), None if names is None else list(names), scale)
