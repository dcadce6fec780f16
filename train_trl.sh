#!/usr/bin/env bash
# Fine-tune the student with the reference hyperparameters (step 2 of 3).
#
#   bash train_trl.sh                                     one GPU, or the CPU where there is none
#   NUM_PROCESSES=8 bash train_trl.sh                     eight GPUs, a copy of the model on each
#   NUM_PROCESSES=2 bash train_trl.sh ...                 two processes, where there is no GPU
#   NUM_PROCESSES=8 ACCELERATE_CONFIG=recipes/accelerate/fsdp2.yaml bash train_trl.sh
#   bash train_trl.sh --config recipes/cpu-example-train.yaml --seed 1         flags are passed on
#
# With several processes an optimizer step holds 4 x 4 x NUM_PROCESSES rows. To keep it at 16 on two
# of them pass --gradient_accumulation_steps 2, on four of them 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}"
NUM_PROCESSES="${NUM_PROCESSES:-1}"
ACCELERATE_CONFIG="${ACCELERATE_CONFIG:-recipes/accelerate/ddp.yaml}"

REFERENCE=(
  --lora_rank 32
  --lora_alpha 16
  --lora_targets all-linear
  --learning_rate 2e-4
  --lr_scheduler_type cosine_with_min_lr
  --min_lr_rate 0.1
  --warmup_ratio 0.03
  --per_device_train_batch_size 4
  --gradient_accumulation_steps 4
  --num_train_epochs 1
  --max_length 2048
)
# A recipe brings its own; flags given here would win over its file.
case " $* " in *" --config"*) REFERENCE=() ;; esac

refuse() { echo "train_trl.sh: ACCELERATE_CONFIG=$ACCELERATE_CONFIG: $1" >&2; exit 2; }
if [ "$NUM_PROCESSES" -gt 1 ]; then
  [ -f "$ACCELERATE_CONFIG" ] || refuse "no such file: $ACCELERATE_CONFIG; see recipes/accelerate/"
  if grep -q '^distributed_type: DEEPSPEED' "$ACCELERATE_CONFIG" && ! "$PYTHON" -c \
    'import importlib.util, sys; sys.exit(importlib.util.find_spec("deepspeed") is None)'; then
    refuse "it needs the package deepspeed: pip install deepspeed (or take recipes/accelerate/fsdp2.yaml)"
  fi
  # accelerate would take plain data parallelism there without a word.
  if [ "$ACCELERATE_CONFIG" != recipes/accelerate/ddp.yaml ] && ! command -v nvidia-smi >/dev/null; then
    refuse "it needs GPUs, and there are none here; without it the processes train on the CPU"
  fi
fi

if [ "$NUM_PROCESSES" -gt 1 ] && ! command -v nvidia-smi >/dev/null; then
  # accelerate starts several processes on a CPU through MPI only; torch's launcher needs nothing.
  exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NUM_PROCESSES" \
    train_sft_trl.py "${REFERENCE[@]}" "$@"
fi
if [ "$NUM_PROCESSES" -gt 1 ]; then
  exec "$PYTHON" -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG" \
    --num_processes "$NUM_PROCESSES" train_sft_trl.py "${REFERENCE[@]}" "$@"
fi
exec "$PYTHON" train_sft_trl.py "${REFERENCE[@]}" "$@"
