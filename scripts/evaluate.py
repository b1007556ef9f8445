"""Measures masks that were found before: python scripts/evaluate.py run=outputs/a metric=[deletion,insertion] [key=value]

The run's own command is continued with these metrics: nothing is explained again that is done. Metrics, their options
(metrics.deletion.steps=100), crossing=, device=, batch_size= and threads= may be given.
"""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from mpx.cli import main

if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if not a.startswith("run=")]
    run = next((Path(a.removeprefix("run=")) for a in sys.argv[1:] if a.startswith("run=")), None)
    if run is None or not (run / ".hydra" / "overrides.yaml").is_file():
        sys.exit(f"run={run} is not the folder of a run, which holds .hydra/overrides.yaml: give run=outputs/<name>")
    kept = [o for o in OmegaConf.load(run / ".hydra" / "overrides.yaml") if not o.startswith(("metric=", "name="))]
    sys.argv[1:] = [*kept, *given, f"hydra.run.dir={run}"]
    main()
