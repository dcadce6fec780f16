#!/usr/bin/env bash
# Install, then run all three steps on the example models: label, train, evaluate. No GPU, no
# account, no model hub; once installed, no network.
#
#   bash scripts/quickstart.sh                  # the task language: one of thirteen labels
#   bash scripts/quickstart.sh --task persona   # a character: free text
#   bash scripts/quickstart.sh --task card      # JSON by a schema
#   bash scripts/quickstart.sh --fresh          # forget what an earlier quickstart left
#
# Run again, it uses the answers in the journal again; training and evaluations are redone. Writes
# data/quickstart/ and models/quickstart/, and links from the default places of the three steps to
# them, unless something of yours stands there. Another task writes data/quickstart-NAME/ and
# models/quickstart-NAME/, and no links.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=no
task=language
while [ $# -gt 0 ]; do
  case "$1" in
    --fresh) fresh=yes ;;
    --task) task=${2:-}; shift $(($# > 1)) ;;
    *) echo "quickstart.sh: unknown argument '$1'; allowed: --task NAME, --fresh" >&2; exit 2 ;;
  esac
  shift
done

data=data/quickstart-$task
model=models/quickstart-$task
dataset=$data/$task.jsonl
inputs=./example-data/$task.jsonl
recipe=recipes/cpu-radio
pair=example-models/radio-
steps=()
case "$task" in
  language)
    data=data/quickstart
    model=models/quickstart
    dataset=$data/prompt_distillation_lang.jsonl
    inputs=./example-data/multilingual.txt
    recipe=recipes/cpu-example
    pair=example-models/
    ;;
  persona) ;;
  card) steps=(--learning_rate 2e-3 --lora_alpha 16 --num_train_epochs 6) ;; # small steps, and fewer
  *) echo "quickstart.sh: no task '$task' to try; allowed: language, persona, card" >&2; exit 2 ;;
esac

# The example models lie in the checkout: asking a hub for them would only wait for a time-out.
export HF_HUB_OFFLINE=1 WANDB_MODE="${WANDB_MODE:-offline}" VLLM_NO_USAGE_STATS=1
python="${VENV:-.venv}/bin/python"
# The installation leaves compiling to the first import, which is of use only if it is kept.
unset PYTHONDONTWRITEBYTECODE

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
  "$python" evaluate.py --config "$recipe-evaluate.yaml" --task "tasks/$task" \
    --test_file "$inputs" --train_data_file "$dataset" --output_file "$data/$name.json" "$@"
}

# A run of your own into the default places follows the links below and lands in ours.
manifest=${dataset%.jsonl}.manifest.json
if [ -e "$manifest" ] && ! grep -q "\"name\": \"${pair}teacher\"" "$manifest"; then
  echo "quickstart.sh: $dataset is no quickstart's but labelled by another teacher;" \
    "move $data/ elsewhere, then run this again" >&2
  exit 2
fi

stage "install" bash scripts/install.sh --steps
if [ "$fresh" = yes ]; then
  rm -rf "$data" "$model"
fi
mkdir -p "$data" models

if [ "$task" = persona ]; then
  # The same questions as in example-data/persona.jsonl, which the teacher was built with.
  inputs=$data/questions.jsonl
  stage "inputs: questions from templates" \
    "$python" scripts/generate_inputs.py --templates tasks/persona/questions.yaml \
    --num_inputs 900 --output_file "$inputs" --overwrite
fi
stage "label: the teacher thinks under its prompt" \
  "$python" create_data.py --config "$recipe-create-data.yaml" --task "tasks/$task" \
  --input_file "$inputs" --output_file "$dataset" --overwrite
stage "train: the student learns the answers, without prompt or thinking" \
  "$python" train_sft_trl.py --config "$recipe-train.yaml" \
  --train_file "$dataset" --output_dir "$model" --overwrite "${steps[@]}"
rows=()
# Its answers to the held-out inputs are in the records already: no model is loaded for them. A
# text has no right answer but the teacher's.
if [ "$task" != persona ]; then
  stage "evaluate: teacher, with its prompt" \
    evaluate teacher --model_path none --base_model "${pair}teacher" --with_prompt true \
    --thinking true --temperature 0.15 --max_tokens 256 --quiet \
    --predictions_file "${dataset%.jsonl}.records.jsonl"
  rows+=("teacher, with prompt=$data/teacher.json")
fi
# Starting vLLM is most of it, and keeps one core busy: both at the same time.
evaluate_students() {
  local log=$data/student-before.log
  evaluate student-before --quiet --model_path none --base_model "${pair}student" > "$log" 2>&1 &
  evaluate student-after --model_path "$model"
  printf '\nThe student before training:\n'
  if ! wait "$!"; then
    cat "$log" >&2
    return 1
  fi
  cat "$log"
}
stage "evaluate: student before and after training, no prompt" evaluate_students
rows+=(
  "student before, no prompt=$data/student-before.json"
  "student after, no prompt=$data/student-after.json"
)
if [ "$task" = card ]; then
  stage "evaluate: student after training, constrained by the schema" \
    evaluate student-constrained --quiet --model_path "$model" --decoding constrained
  rows+=("student after, constrained=$data/student-constrained.json")
fi

# The defaults of the three steps then find the quickstart's files. A link is ours if it points
# into ours; anything else is somebody's work and stays as it is.
is_free() {
  if [ -L "$1" ]; then
    case "$(readlink "$1")" in quickstart | quickstart/*) return 0 ;; *) return 1 ;; esac
  fi
  [ ! -e "$1" ]
}
link_defaults() {
  # Not the journal and the corrections: they are looked for where the link of the dataset leads.
  local part parts=(jsonl heldout.jsonl records.jsonl rejects.jsonl manifest.json) free=yes
  is_free models/prompt_distillation_trl || free=no
  for part in "${parts[@]}"; do
    is_free "data/prompt_distillation_lang.$part" || free=no
  done
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
}
if [ "$task" = language ]; then
  next="python evaluate.py --max_samples 100"
  link_defaults
else
  stage "report: $data/report.html" \
    "$python" scripts/report.py --result_file "$data/student-after.json" --model_path "$model" \
    --output_file "$data/report.html" --plots_dir "$data/plots" --overwrite
  next="python evaluate.py --config $recipe-evaluate.yaml --task tasks/$task --test_file $inputs"
  next="$next --model_path $model --train_data_file $dataset --max_samples 20"
fi

printf '\n'
"$python" scripts/quickstart_table.py "${rows[@]}"
printf '\n'
printf '%s\n' "${stages[@]}" "$(printf '%5d s  in all' "$SECONDS")"
printf '\nTry it:  source %s/bin/activate && %s\n' "${VENV:-.venv}" "$next"
