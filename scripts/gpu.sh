#!/usr/bin/env bash
# Everything about a GPU in one command of nine minutes: scripts/gpu.sh [folder] [--rehearsal]; see scripts/gpu.py.
# The machine has torch, torchvision and pytorch-lightning. Whatever else mpx needs lies as wheels in $WHEELS (.whl/).
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${WHEELS:-.whl}
if compgen -G "$wheels/*.whl" > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python3 scripts/gpu.py "$@"
