#!/usr/bin/env bash
# Install what is missing, then run the tests. Arguments go to pytest:
#
#   bash scripts/test.sh                       # everything this machine can run
#   bash scripts/test.sh -m 'not vllm' -x      # a part of it
#   bash scripts/test.sh tests/test_task.py
#   TEST_PROCESSES=0 bash scripts/test.sh --pdb   # one process, for a debugger
#   bash scripts/test.sh -m gpu                # on an NVIDIA GPU: what only a GPU can show
#
# Otherwise it needs no GPU, no account and, once installed, no network.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two files at a time: much of a test's time is one process that waits for another. All tests of a
# file stay together, because they share engines; a GPU is not shared at all.
processes="${TEST_PROCESSES:-2}"
case " $* " in
  *" -m gpu "*) bash scripts/install.sh --gpu; processes=0 ;;
  *) bash scripts/install.sh ;;
esac

# Processes that share the cores wait for each other when each starts a thread for every core: on
# 2 cores the suite then takes twice as long.
if [ "$processes" -gt 1 ]; then
  threads=$(( $(nproc) / processes ))
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( threads > 0 ? threads : 1 ))}"
fi

# The installation leaves compiling to the first import; where nothing may be kept, every one of
# several hundred processes would compile torch and vLLM again.
unset PYTHONDONTWRITEBYTECODE

# No test may reach for a hub, a W&B account or a telemetry host, nor wait for one.
export HF_HUB_OFFLINE=1 WANDB_MODE=offline VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
exec "${VENV:-.venv}/bin/python" -m pytest -n "$processes" --dist loadfile \
  --no-loadscope-reorder "$@"
