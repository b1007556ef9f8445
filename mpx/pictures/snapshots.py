"""Small pictures of a row and of its mask's evolution: for report.html and for loggers."""

import json
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mpx.pictures.base import PicturedExplanation
from mpx.pictures.colours import as_rgb, overlay
from mpx.pictures.encoding import encode_jpeg, reduce_image, to_image, to_uint8

MAX_FRAMES = 100  # of a strip: a JPEG is at most 65,535 pixels high


def snapshots(
    explanation: PicturedExplanation, row: int, max_side: int = 320, frame_side: int = 56
) -> dict[str, np.ndarray]:
    """Return the pictures of a row that report.html shows, JPEGs as (bytes,) uint8, and the recorded numbers.

    photo, perturbed, complement: reduced to `max_side` pixels; the last two only where the mask acts on the image.
    frames: the saliency at the F iterations one below the other, about `frame_side` pixels each. Sides are multiples of
    8, the block of a JPEG, so that no frame bleeds into the next. iterations: (F,). frame_values: (F,) probabilities.
    answers: JSON, picture -> [name, value, whether it is the target] of its highest answers.
    """
    pictures = {"photo": explanation.images}
    if explanation.complement is not None:
        pictures |= {"perturbed": explanation.perturbed, "complement": explanation.complement}
    shown = {name: to_image(as_rgb(x[row], explanation.bands)) for name, x in pictures.items()}
    encoded = {name: encode_jpeg(reduce_image(image, max_side), 85) for name, image in shown.items()}
    listed = {"photo": explanation.answers_before, "perturbed": explanation.answers_after,
              "complement": explanation.answers_complement}  # fmt: skip
    answers = {name: [[a.name, a.value, a.is_target] for a in listed[name][row]] for name in pictures}
    recorded = len(explanation.iterations)
    frames = torch.linspace(0, recorded - 1, min(recorded, MAX_FRAMES)).round().int().tolist()
    longer = max(explanation.images.shape[2:])
    h, w = (8 * max(1, round(side * frame_side / longer / 8)) for side in explanation.images.shape[2:])
    strip = F.interpolate(explanation.frame_evidence[frames, row].float(), (h, w), mode="area").round().byte()  # (F,1,h,w)
    encoded["frames"] = encode_jpeg(Image.fromarray(strip.reshape(-1, w).numpy()))
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in encoded.items()}
    return arrays | {
        "iterations": np.array(explanation.iterations)[frames],
        "frame_values": explanation.frame_values[frames, row].float().numpy(),
        "answers": np.array(json.dumps(answers)),
    }


def evolution_strips(explanation: PicturedExplanation, row: int, frames: Sequence[int]) -> Tensor:
    """Return (len(frames),3,H,3W) uint8: image | saliency over image | perturbed image at these frames, without captions."""
    index = list(frames)
    image = as_rgb(explanation.images[row], explanation.bands)
    overlays = to_uint8(overlay(image, explanation.frame_evidence[index, row] / 255))
    perturbed = as_rgb(explanation.frames[index, row], explanation.bands)
    return torch.cat([to_uint8(image).expand(len(index), -1, -1, -1), overlays, perturbed], -1)
