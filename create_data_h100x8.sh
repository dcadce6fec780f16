#!/usr/bin/env bash
# Label with several teachers side by side on one machine (step 1 of 3), and merge what they wrote.
#
#   bash create_data_h100x8.sh                              the defaults, all visible GPUs
#   bash create_data_h100x8.sh INPUT OUTPUT                 your inputs, your dataset
#   bash create_data_h100x8.sh INPUT OUTPUT --num_votes 3   flags of create_data.py are passed on
#
# Environment:
#   NUM_INSTANCES          teachers side by side; default 2 (1 where there is one GPU)
#   TENSOR_PARALLEL_SIZE   GPUs of each; default: visible GPUs / instances
#   MODEL_NAME             the teacher; default: the recipe's
#   CONFIG                 recipe; default recipes/h100x8-create-data.yaml, or, on a machine without
#                          GPUs, recipes/cpu-example-create-data.yaml with the tiny example teacher
#   CUDA_VISIBLE_DEVICES   the GPUs to use; default: all that nvidia-smi lists
#   PYTHON                 default .venv/bin/python where it exists
#
# 2 x 4 gives each teacher the memory of four GPUs: room for long reasoning and long inputs. A
# 30B-A3B teacher (61 GB in bf16) also fits on one 80 GB GPU; its 3B active parameters leave little
# to share, and each layer of a shared model waits for its GPUs to exchange results. So 8 x 1 (or
# 4 x 2) is the faster cut where the cache that is left is enough: about 0.1 MB a token, so some
# 100,000 tokens in flight on one GPU. Short inputs, reasoning under about 1,000 tokens: try it.
#   NUM_INSTANCES=8 TENSOR_PARALLEL_SIZE=1 bash create_data_h100x8.sh
#
# A run that was stopped (Ctrl-C, a crash, a reboot) goes on where it was, by the same command, also
# with another number of instances. Each teacher's messages are in OUTPUT's folder, *.instance-N.log.
# Exit code: 0, or that of the instance that ended worst; 130 after Ctrl-C.
set -euo pipefail
# Each instance in a process group of its own: Ctrl-C reaches this script only, which ends them in
# order, and none of their own processes can be left behind.
set -m
cd "$(dirname "${BASH_SOURCE[0]}")"

PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}"
input=example-data/multilingual.txt
output=data/prompt_distillation_lang.jsonl
if [ $# -gt 0 ] && [[ $1 != --* ]]; then input=$1; shift; fi
if [ $# -gt 0 ] && [[ $1 != --* ]]; then output=$1; shift; fi

die() { echo "create_data_h100x8.sh: $1" >&2; exit 2; }

gpus=()
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null 2>&1; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
num_gpus=${#gpus[@]}

instances=${NUM_INSTANCES:-$((num_gpus == 1 ? 1 : 2))}
[[ $instances =~ ^[1-9][0-9]*$ ]] || die "NUM_INSTANCES is '$instances'; it must be a number from 1"
if [ "$num_gpus" -gt 0 ]; then
  config=${CONFIG:-recipes/h100x8-create-data.yaml}
  per_instance=${TENSOR_PARALLEL_SIZE:-$((num_gpus / instances))}
  [[ $per_instance =~ ^[1-9][0-9]*$ ]] && [ $((instances * per_instance)) -le "$num_gpus" ] ||
    die "$instances instances of ${per_instance} GPUs do not fit on $num_gpus; lower NUM_INSTANCES or TENSOR_PARALLEL_SIZE"
else
  config=${CONFIG:-recipes/cpu-example-create-data.yaml}
  per_instance=${TENSOR_PARALLEL_SIZE:-1}
fi

flags=(--config "$config" --input_file "$input" --output_file "$output"
  --tensor_parallel_size "$per_instance" --num_shards "$instances")
if [ -n "${MODEL_NAME:-}" ]; then flags+=(--model_name "$MODEL_NAME"); fi
flags+=("$@")

logs=()
pids=()
stopped=

# The devices of instance $1: so many GPUs, or, without any, its share of the cores.
start_instance() {
  local index=$1 log="${output%.jsonl}.instance-$1.log"
  logs+=("$log")
  if [ "$num_gpus" -gt 0 ]; then
    local own=("${gpus[@]:index*per_instance:per_instance}")
    (IFS=, && export CUDA_VISIBLE_DEVICES="${own[*]}" && launch "$index") >"$log" 2>&1 </dev/null &
  else
    (bind_to_cores "$index" && launch "$index") >"$log" 2>&1 </dev/null &
  fi
  pids+=($!)
}

launch() {
  exec "$PYTHON" create_data.py "${flags[@]}" --shard_index "$1" --progress_seconds 1
}

# Without this, every vLLM would bind its threads to the same cores and wait for the others.
bind_to_cores() {
  local cores first last part binding=
  cores=$(nproc)
  for ((part = $1 * per_instance; part < ($1 + 1) * per_instance; part++)); do
    first=$((part * cores / (instances * per_instance)))
    last=$(((part + 1) * cores / (instances * per_instance) - 1))
    binding+="${binding:+|}$((first < cores ? first : cores - 1))-$((last < first ? first : last))"
  done
  export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-$binding}"
  export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"
}

# The first signal asks for an orderly end; the second does not ask.
stop_instances() {
  if [ -z "$stopped" ]; then
    stopped=yes
    echo "stopping $instances instances; what they wrote is kept" >&2
    kill -TERM "${pids[@]}" 2>/dev/null || true
  else
    kill_groups
  fi
}
kill_groups() {
  local pid
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}
trap stop_instances INT TERM HUP

# One line for all: the sums of what each log said last.
progress() {
  local log
  for log in "${logs[@]}"; do grep -E '^labelled [0-9]+/[0-9]+ ' "$log" | tail -n 1 || true; done |
    awk -v instances="$instances" '{ split($2, n, "/"); started++; done += n[1]; all += n[2]; gsub(",", "", $4); rate += $4 }
      END { if (!all) { print "loading the teacher"; exit }
        line = sprintf("labelled %d/%d (%.1f %%), %.1f inputs/s", done, all, 100 * done / all, rate)
        if (rate > 0 && done < all) { s = (all - done) / rate
          line = line sprintf(", %d:%02d:%02d left", s / 3600, s % 3600 / 60, s % 60) }
        if (started < instances) line = line sprintf(", %d still loading", instances - started)
        print line }'
}

alive() {
  local pid
  for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then return 0; fi; done
  return 1
}

mkdir -p "$(dirname "$output")" || die "cannot make the folder of $output"
echo "labelling $input with $instances instances x $per_instance $([ "$num_gpus" -gt 0 ] && echo GPUs || echo 'share(s) of the CPU')" >&2
for ((index = 0; index < instances; index++)); do start_instance "$index"; done

# On a terminal one line that is drawn anew; in a file a line now and then.
shown=
show() {
  local line
  line=$(progress)
  if [ "$line" = "$shown" ]; then return; fi
  shown=$line
  if [ -t 2 ]; then printf '\r\033[K%s' "$line" >&2; else echo "$line" >&2; fi
}

interval=$([ -t 2 ] && echo 1 || echo 10)
next=0
while alive; do
  if [ "$SECONDS" -ge "$next" ]; then
    show
    next=$((SECONDS + interval))
  fi
  # In the background, so that a signal does not wait for it.
  sleep 0.5 &
  wait $! || true
done
show
if [ -t 2 ]; then echo >&2; fi

worst=0
for index in "${!pids[@]}"; do
  code=0
  wait "${pids[index]}" || code=$?
  if [ "$code" -ne 0 ] && [ -z "$stopped" ]; then
    echo "instance $index ended with code $code; the end of ${logs[index]}:" >&2
    tail -n 3 "${logs[index]}" >&2
  fi
  if [ "$code" -gt "$worst" ]; then worst=$code; fi
done
kill_groups
if [ -n "$stopped" ]; then
  echo "stopped; run the same command again to go on where it stopped" >&2
  exit 130
fi
if [ "$worst" -ne 0 ]; then exit "$worst"; fi
trap - INT TERM HUP
"$PYTHON" create_data.py "${flags[@]}" --merge
