"""A stored row brought back: the problem that it is of, and its explanation."""

import json
import math
from dataclasses import replace
from typing import Any

import torch

from mpx import rankings
from mpx.data.items import Item
from mpx.data.targets import TargetContext
from mpx.explanation import Explanation
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.outcome import to_explanation
from mpx.learning.rows import Row, RowState, rows_of_image
from mpx.models.classifier import Classifier
from mpx.runs.fingerprint import PHOTO, digest_file
from mpx.runs.row_source import load_image

TOLERANCE = 0.01  # of the value on the photo, relative to 1 or to a larger value


def load_problem(
    classifier: Classifier, item: Item, stored: dict[str, Any], target: Any
) -> tuple[Row, TargetContext]:
    """Return the row that is stored, with its image, and what its task may know of the image.

    classifier: frozen; its batch norms are folded. stored: of `store.load_row`. target: `target=` of the run. Raises
    ValueError where the image cannot be read, or its target is not found again.
    """
    area = None if math.isnan(stored["requested_area"]) else stored["requested_area"]
    image, context = load_image(classifier, item)
    classifier.fold(image[None])
    if not classifier.task.prepares:
        return Row(image, stored["target"], stored["image"], area), context
    for row in rows_of_image(classifier, image, stored["image"], target, [area], context):  # it may need a place
        if row.key == stored["row_key"]:
            return row, context
    raise ValueError(f"its target {stored['row_key']} is not found again, where the network or the device changed")


def prepare_stored(
    method: Method, classifier: Classifier, item: Item, stored: dict[str, Any], target: Any
) -> tuple[Objective, Row]:
    """Return a stored row, ready to be evaluated under any mask, and the row itself. classifier: frozen.

    Raises ValueError where the photo's file is another one, or the network's value on it.
    """
    photo = json.loads(stored["made_from"])["files"][PHOTO]
    if digest_file(item.path, photo)["sha256"] != photo["sha256"]:
        raise ValueError(f"{item.path} has changed since the run: run the command again, or put the photo back")
    row, _ = load_problem(classifier, item, stored, target)
    device = classifier.device
    objective = Objective(
        replace(method, ranking=rankings.mask),  # the stored saliency is ranked already
        classifier,
        row.image[None].to(device),
        torch.tensor([row.target], device=device),
        [row.image_name],
        None if row.area is None else torch.tensor([row.area], device=device),
        None if row.place is None else row.place[None],
    )
    before, now = stored["value_before"], float(objective.value_before[0])
    if abs(now - before) > TOLERANCE * max(1, abs(before)):
        raise ValueError(
            f"{row.image_name}: the network's value on the photo was {before:.4g} and is {now:.4g}: the network has changed "
            "since the run"
        )
    return objective, row


def explanation_of(
    method: Method, classifier: Classifier, item: Item, stored: dict[str, Any], target: Any
) -> Explanation:
    """Return the explanation of a stored row. The network runs again on its image, without an iteration.

    Its one frame is the result. Raises ValueError as `prepare_stored`.
    """
    with classifier.frozen():
        objective, row = prepare_stored(method, classifier, item, stored, target)
        parameter = torch.from_numpy(stored["parameter"]).reshape(1, *objective.mask.shape).to(classifier.device)
        curves = dict(zip(stored["terms"].tolist(), torch.from_numpy(stored["curves"])))
        iteration = len(next(iter(curves.values()), ()))
        state = RowState(
            objective, 0, parameter, [iteration], [parameter], parameter, iteration, finished=True, history=curves,
            passes=stored["passes"], forwards=stored["forwards"], seconds=stored["seconds"],
        )  # fmt: skip
        explanation, _ = to_explanation(objective, [state], [row])
    saliency = torch.from_numpy(stored["saliency"]).float()[None, None]
    return replace(explanation, method=method, saliency=saliency, seconds=torch.tensor([stored["seconds"]]))
