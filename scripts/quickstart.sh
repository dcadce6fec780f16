#!/usr/bin/env bash
# Install, then run all three steps on the example models: label, train, evaluate. No GPU, no
# account, no model hub; once installed, no network.
#
#   bash scripts/quickstart.sh            # run again: answers in the journal are used again,
#                                         # training and evaluations are redone
#   bash scripts/quickstart.sh --fresh    # forget what an earlier quickstart left
#
# Writes data/quickstart/ and models/quickstart/, and links from the default places of the three
# steps to them, unless something of yours stands there.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=no
case "${1:-}" in
  "") ;;
  --fresh) fresh=yes ;;
  *) echo "quickstart.sh: unknown argument '$1'; allowed: --fresh" >&2; exit 2 ;;
esac

# The example models lie in the checkout: asking a hub for them would only wait for a time-out.
export HF_HUB_OFFLINE=1 WANDB_MODE="${WANDB_MODE:-offline}" VLLM_NO_USAGE_STATS=1
python="${VENV:-.venv}/bin/python"
data=data/quickstart
model=models/quickstart
dataset=$data/prompt_distillation_lang.jsonl

stages=()
stage() {
  local name=$1 started=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  stages+=("$(printf '%5d s  %s' $((SECONDS - started)) "$name")")
}

evaluate() {
  local name=$1
  shift
  rm -f "$data/$name.json"
  "$python" evaluate.py --train_data_file "$dataset" --output_file "$data/$name.json" "$@"
}

# A run of your own into the default places follows the links below and lands in ours.
manifest=$data/prompt_distillation_lang.manifest.json
if [ -e "$manifest" ] && ! grep -q '"name": "example-models/teacher"' "$manifest"; then
  echo "quickstart.sh: $dataset is no quickstart's but labelled by another teacher;" \
    "move $data/ elsewhere, then run this again" >&2
  exit 2
fi

stage "install" bash scripts/install.sh --steps
if [ "$fresh" = yes ]; then
  rm -rf "$data" "$model"
fi
mkdir -p "$data" models

stage "label: the teacher thinks under its prompt" \
  "$python" create_data.py --config recipes/cpu-example-create-data.yaml \
  --output_file "$dataset" --overwrite
stage "train: the student learns the answers, without prompt or thinking" \
  "$python" train_sft_trl.py --config recipes/cpu-example-train.yaml \
  --train_file "$dataset" --output_dir "$model" --overwrite
# Its answers to the held-out inputs are in the records already: no model is loaded for them.
stage "evaluate: teacher, with its prompt" \
  evaluate teacher --config recipes/cpu-example-evaluate-teacher.yaml --quiet \
  --predictions_file "$data/prompt_distillation_lang.records.jsonl"
# Starting vLLM is most of it, and keeps one core busy: both at the same time.
evaluate_students() {
  local log=$data/student-before.log
  evaluate student-before --config recipes/cpu-example-evaluate.yaml --quiet \
    --model_path none --base_model example-models/student > "$log" 2>&1 &
  evaluate student-after --config recipes/cpu-example-evaluate.yaml --model_path "$model"
  printf '\nThe student before training:\n'
  if ! wait "$!"; then
    cat "$log" >&2
    return 1
  fi
  cat "$log"
}
stage "evaluate: student before and after training, no prompt" evaluate_students

# The defaults of the three steps then find the quickstart's files. A link is ours if it points
# into ours; anything else is somebody's work and stays as it is.
is_free() {
  if [ -L "$1" ]; then
    case "$(readlink "$1")" in quickstart | quickstart/*) return 0 ;; *) return 1 ;; esac
  fi
  [ ! -e "$1" ]
}
# Not the journal and the corrections: they are looked for where the link of the dataset leads.
parts=(jsonl heldout.jsonl records.jsonl rejects.jsonl manifest.json)
free=yes
is_free models/prompt_distillation_trl || free=no
for part in "${parts[@]}"; do
  is_free "data/prompt_distillation_lang.$part" || free=no
done
next="python evaluate.py --max_samples 100"
if [ "$free" = yes ]; then
  ln -sfn quickstart models/prompt_distillation_trl
  for part in "${parts[@]}"; do
    ln -sfn "quickstart/prompt_distillation_lang.$part" "data/prompt_distillation_lang.$part"
  done
else
  echo "Other files stand at models/prompt_distillation_trl or data/prompt_distillation_lang.*:" \
    "they were left as they are."
  next="$next --model_path $model --train_data_file $dataset"
fi

printf '\n'
"$python" scripts/quickstart_table.py \
  "teacher, with prompt=$data/teacher.json" \
  "student before, no prompt=$data/student-before.json" \
  "student after, no prompt=$data/student-after.json"
printf '\n'
printf '%s\n' "${stages[@]}" "$(printf '%5d s  in all' "$SECONDS")"
printf '\nTry it:  source %s/bin/activate && %s\n' "${VENV:-.venv}" "$next"
