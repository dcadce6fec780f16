"""A fourth kind of answer is one module: here numbers, from labelling to the report."""

import json
import re
from dataclasses import dataclass

from labelling.scripted import ScriptedEngine, completion, run_label

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.evaluation.evaluator import evaluate
from prompt_distillation.report.page import PageParts, build_page
from prompt_distillation.tasks import Answer, RejectReason, VoteCount, task
from prompt_distillation.tasks.free_text import FreeText


@dataclass(frozen=True)
class Number(FreeText):
    """The last number that was written; 7.0 is 7; of several votes the median."""

    name: str = "number"
    has_right_answers: bool = True

    def read(self, text: str) -> Answer:
        found = re.findall(r"-?\d+(?:\.\d+)?", text)
        if not found:
            return Answer(reject_reason=RejectReason.NO_LABEL, detail=f"no number in {text[:60]!r}")
        return Answer(text=f"{float(found[-1]):g}")

    def accept(self, text: str) -> Answer:
        return self.read(text)

    def count_votes(self, answers) -> VoteCount:
        median = sorted(answers, key=float)[len(answers) // 2]
        return VoteCount(winner=median, tallies=({median: len(answers)},))


def test_numbers_go_from_labelling_to_the_report(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(task.KINDS, "number", lambda fields, path: Number())
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "task.yaml").write_text("kind: number\n")
    (folder / "prompt.md").write_text("Count the letters.")
    rows = [{"text": "a" * length, "label": length} for length in range(1, 11)]
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def count(request):
        length = len(request.messages[-1]["content"]) + request.sampling.seed % 3 - 1
        return completion(f"It is 1.</think>I count {length}.0")

    run_label(
        tmp_path, ScriptedEngine(count), task=folder, input_file=inputs, num_votes=3,
        temperature=1.0, held_out=0.3,
    )  # fmt: skip

    lines = (tmp_path / "out.records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(record["reject_reason"] is None for record in records)
    assert all(record["answer"] == f"{float(record['answer']):g}" for record in records)
    result = evaluate(
        EvaluateConfig.of(
            model_path="m", task=folder, test_file=inputs, split="all",
            train_data_file=tmp_path / "out.jsonl",
            predictions_file=tmp_path / "out.records.jsonl",
        )
    )  # fmt: skip
    assert result.summary.parse_rate == 1.0
    assert result.summary.accuracy is not None
    assert result.truths is not None
    assert 'id="h-inputs"' in build_page(PageParts(results={"teacher": result}, main="teacher"))
