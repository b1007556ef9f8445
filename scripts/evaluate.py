"""Evaluator masks that were found before: python scripts/evaluate.py run=outputs/a metric=[deletion,insertion] [key=value]

The run's own command is continued with these metrics beside its own: nothing is explained or measured again that is done.
Metrics, their options (metrics.deletion.step=448), other_perturbations=, device= and batch_size= may be given.
"""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from mpx import config
from mpx.cli.main import main

if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if not a.startswith("run=")]
    run = next((Path(a.removeprefix("run=")) for a in sys.argv[1:] if a.startswith("run=")), None)
    if run is None or not (run / ".hydra" / "overrides.yaml").is_file():
        sys.exit(f"run={run} is not the folder of a run, which holds .hydra/overrides.yaml: give run=outputs/<name>")
    # all of the run's rows are measured here, and of a sweep's job no other job
    replaced = ("name=", "share=", "force=", "sweep=", "cluster=")
    asked = next((a.removeprefix("metric=").strip("[]").split(",") for a in given if a.startswith("metric=")), None)
    if asked:
        measured = OmegaConf.load(run / ".hydra" / "config.yaml").get("metrics") or {}
        before = [name for name in measured if name in config.options("metric")]  # +metrics... brings the user's own
        given = [a for a in given if not a.startswith("metric=")]
        given.insert(0, f"metric=[{','.join(dict.fromkeys([*before, *map(str.strip, asked)]))}]")
        replaced += ("metric=",)
    kept = [o for o in OmegaConf.load(run / ".hydra" / "overrides.yaml") if not o.startswith(replaced)]
    folder = str(run).replace("\\", "\\\\").replace("'", "\\'")  # quoted: a sweep's jobs are called explainer=rise
    sys.argv[1:] = [*kept, *given, f"hydra.run.dir='{folder}'"]
    main()
