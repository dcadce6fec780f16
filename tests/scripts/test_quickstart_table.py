import json
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.result_files import write_result
from prompt_distillation.evaluation.evaluator import evaluate

ROOT = Path(__file__).parents[2]


def table(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/quickstart_table.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare; pass NAME=RESULT.json, once per row"),
        (["teacher"], "'teacher' is not NAME=RESULT.json"),
        (["teacher=absent.json"], "no such file: absent.json"),
        (["teacher=example-models/student/config.json"], "not a result of evaluate.py"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    done = table(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_answers_from_a_journal_have_tokens_and_no_seconds(tmp_path):
    predictions = [
        {"index": i, "text": "x", "group": "g", "predicted": "de", "ground_truth": "de",
         "correct": True, "prompt_tokens": 1500, "completion_tokens": 30 + i}
        for i in range(2)
    ]  # fmt: skip
    (tmp_path / "inputs.txt").write_text("eins\nzwei\n")
    (tmp_path / "gold.txt").write_text("de\nde\n")
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ot"}]}\n'
    )
    (tmp_path / "predictions.txt").write_text("de\nde\n")
    result = evaluate(
        EvaluateConfig.of(
            task=ROOT / "tasks/language", test_file=tmp_path / "inputs.txt",
            ground_truth_file=tmp_path / "gold.txt", train_data_file=tmp_path / "train.jsonl",
            predictions_file=tmp_path / "predictions.txt",
        )
    )  # fmt: skip
    write_result(tmp_path / "teacher.json", result)
    value = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps(value | {"predictions": predictions}))

    done = table(f"teacher={tmp_path / 'teacher.json'}")

    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "teacher" in line]
    assert row.replace("│", "").split() == [
        "teacher", "100.0%", "34.2%", "-", "100.0%", "2", "1,500", "30.5", "-",
    ]  # fmt: skip


def test_json_answers_have_their_shares_and_the_f1_of_their_leaves(tmp_path):
    card = '{"question":false,"length":"short","boat":null,"numbers":[4],"urgent":false}'
    answers = [card, card.replace("[4]", "[5]"), card.replace("short", "tiny"), "Aye."]
    rows = [{"text": f"Call {number}, 4 miles out.", "label": card} for number in range(4)]
    for name, lines in (
        ("calls.jsonl", [json.dumps(row) for row in rows]),
        ("train.jsonl", ['{"messages": [{"role": "user", "content": "x"}, '
                         '{"role": "assistant", "content": "{}"}]}']),
        ("answers.jsonl", [json.dumps({"predicted": answer}) for answer in answers]),
    ):  # fmt: skip
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    result = evaluate(
        EvaluateConfig.of(
            task=ROOT / "tasks/card", test_file=tmp_path / "calls.jsonl",
            train_data_file=tmp_path / "train.jsonl", predictions_file=tmp_path / "answers.jsonl",
        )
    )  # fmt: skip
    write_result(tmp_path / "card.json", result)

    done = table(f"student={tmp_path / 'card.json'}")

    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "student" in line]
    shares = [cell.split()[0] for cell in row.split("│")[2:7]]
    # 4 leaves each: 4 + 3 of the 8 given and the 16 wanted are right.
    assert shares == ["75.0%", "50.0%", "25.0%", "58.3%", "4"]
