"""A row's fingerprint: digests of everything that its content depends on. It is stored with the row as JSON.

A resumed run compares it with today's. Where only the photo, its label, its annotation or a file about it changed, the row
is made again; a row of another configuration or of other versions is refused. Files are known by their bytes. A file whose
size, times and inode are those stored is not read again, so that a resume takes one system call for each file.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpx.data.annotations import regions_digest
from mpx.data.items import Item
from mpx.data.mask_files import mask_file_of
from mpx.explainers import precomputed
from mpx.operators import unwrap
from mpx.runs.files import file_state
from mpx.runs.resume import configuration_digest
from mpx.runs.summaries import arithmetic_versions

if TYPE_CHECKING:
    from mpx.runs.plan import RunPlan

PHOTO, MAP, REGION = "photo", "map", "region"  # files of a row


@dataclass(frozen=True)
class Fingerprint:
    """What the rows of a run are made from today."""

    configuration: str = ""  # digest
    versions: str = ""
    is_annotated: bool = False  # whether the task reads annotations
    region_files: Path | None = None  # of task.region=
    explainer: Callable[..., Any] | None = None

    @classmethod
    def of(cls, plan: "RunPlan") -> "Fingerprint":
        """Return the fingerprint of a plan's rows."""
        region = plan.config["task"].get("region")
        region_files = Path(region).expanduser() if isinstance(region, str) and Path(region).expanduser().exists() else None
        configuration = configuration_digest(plan.config, plan.deterministic)
        return cls(configuration, arithmetic_versions(), plan.task.is_placed, region_files, plan.method.explainer)

    def of_image(self, item: Item) -> dict[str, Any]:
        """Return the parts that all rows of an image share. Called before the image is read: a later change is noticed."""
        files = {}
        with suppress(OSError):  # reading the image gives the error
            files[PHOTO] = digest_file(item.path)
        with suppress(ValueError, OSError):  # the task gives the error
            if self.region_files:
                files[REGION] = digest_file(mask_file_of(self.region_files, item.path))
        return self._parts(item) | {"files": files}

    def of_row(self, image: Mapping[str, Any], image_name: str, target: int) -> str:
        """Return the fingerprint of a row as JSON. image: of `of_image`."""
        files = dict(image["files"])
        if isinstance(self.explainer, partial) and unwrap(self.explainer) is precomputed.files:
            with suppress(ValueError, OSError):  # reading the map gives the error
                files[MAP] = digest_file(precomputed.find_map(self.explainer.keywords["folder"], image_name, target))
        return json.dumps({**image, "files": files})

    def changes(self, made_from: str, item: Item) -> dict[str, tuple[str, str]]:
        """Return part -> (stored, today) of what differs from a stored fingerprint."""
        if self == UNKNOWN:
            return {}
        try:
            stored = json.loads(made_from)
            pairs = {name: (str(stored[name]), value) for name, value in self._parts(item).items()}
            for name, file in stored["files"].items():
                path = item.path if name == PHOTO else Path(file["path"])
                with suppress(OSError):  # the file is gone, and its rows stay
                    pairs[name] = (file["sha256"], digest_file(path, file)["sha256"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"fingerprint": ("damaged", "")}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def _parts(self, item: Item) -> dict[str, str]:
        return {
            "configuration": self.configuration,
            "versions": self.versions,
            "label": str(item.label),
            "annotation": regions_digest(item.regions) if self.is_annotated else "",
        }


UNKNOWN = Fingerprint()  # of a caller that does not compare


def digest_file(path: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return path, state and sha256 of a file. known: an earlier result, valid while the state is the same."""
    state = file_state(path)
    if known and known["state"] == state:
        return dict(known)
    with open(path, "rb") as file:
        return {"path": str(path), "state": state, "sha256": sha256(file.read()).hexdigest()}
