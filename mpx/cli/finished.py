"""Whether a job's folder already holds its result."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpx.config_plan import list_items
from mpx.config_schema import to_plain
from mpx.data.items import fingerprint
from mpx.runs.resume import input_files, stored_config

IGNORED_KEYS = {"name", "force"}  # of the comparison of two configurations


class FinishedJobs:
    """Compares jobs with their folders; each source of images is listed once."""

    def __init__(self) -> None:
        self.fingerprints: dict[str, str] = {}  # source of images -> fingerprint of its list

    def holds(self, cfg: DictConfig, folder: Path, after_run: bool = False) -> bool:
        """Return whether the folder holds the complete result of this configuration and of the same images.

        after_run: the job has just run, so force= has had its effect, and skipped images are no reason to run again.
        """
        if cfg.force and not after_run:
            return False
        try:
            summary = json.loads((folder / "summary.json").read_text("utf-8"))
            stored = dict(OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml")))  # type: ignore[arg-type]
        except (OSError, ValueError):
            return False
        config = stored_config(to_plain(cfg))
        differing = {key for key in {*stored, *config} if stored.get(key) != config.get(key)} - IGNORED_KEYS
        if differing or summary["n_missing"] or summary["protocol"]["stopped"]:
            return False
        if summary["n_skipped"] and not after_run:  # a broken file may have been repaired
            return False
        return self._fingerprint(cfg, config) == summary["protocol"].get("images")

    def _fingerprint(self, cfg: DictConfig, config: dict[str, Any]) -> str:
        choices = dict(cfg.hydra.runtime.choices)
        keys = ("dataset", "images", "limit", "explainer")
        source = str([choices["dataset"], *(config.get(key) for key in keys)])
        if source not in self.fingerprints:
            self.fingerprints[source] = fingerprint(list_items(cfg, choices), input_files(config))
        return self.fingerprints[source]
