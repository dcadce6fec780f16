"""`evaluate` and `compare` as functions: the settings reach the engine, cells can be repeated."""

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prompt_distillation.config.compare_config import CompareConfig
from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.comparison import Comparison
from prompt_distillation.data.result_files import read_result, write_result
from prompt_distillation.engines import Completion, EngineOptions, Request, RequestFailedError
from prompt_distillation.errors import ConfigError, EngineError
from prompt_distillation.evaluation.comparer import compare
from prompt_distillation.evaluation.evaluator import evaluate

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "revision": "v2",
    "trust_remote_code": True,
    "chat_template_kwargs": {"enable_thinking": False},
}


@dataclass
class Scripted:
    """Opens engines that answer with what the request asks for, and notes all that it was asked."""

    opened: list[EngineOptions] = field(default_factory=list)
    asked: list[tuple[str, Request]] = field(default_factory=list)
    answer: str = "fr"

    @asynccontextmanager
    async def open(self, kind: str, options: EngineOptions):
        self.opened.append(options)
        yield _ScriptedEngine(self, options.model)


@dataclass
class _ScriptedEngine:
    script: Scripted
    model: str
    name: str = "scripted"
    concurrency: int = 4

    async def complete(self, request: Request) -> Completion:
        self.script.asked.append((self.model, request))
        if self.script.answer == "FAIL":
            raise RequestFailedError("the server is on fire")
        return Completion(
            text=f"</think>{self.script.answer}", finish_reason="stop", prompt_tokens=9,
            completion_tokens=1, seconds=0.01,
        )  # fmt: skip

    async def aclose(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch) -> Scripted:
    script = Scripted()
    monkeypatch.setattr("prompt_distillation.evaluation.evaluator.open_engine", script.open)
    return script


@pytest.fixture
def files(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "test.txt").write_text("".join(f"text {i}\n" for i in range(4)))
    (tmp_path / "gold.txt").write_text("fr\nfr\nde\nde\n")
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "fr"}]}\n'
    )
    return {
        "task": ROOT / "tasks/language", "test_file": tmp_path / "test.txt",
        "ground_truth_file": tmp_path / "gold.txt", "train_data_file": tmp_path / "train.jsonl",
    }  # fmt: skip


def test_every_setting_of_the_model_and_of_sampling_reaches_the_engine(engine, files) -> None:
    result = evaluate(
        EvaluateConfig.of(
            **files, **SETTINGS, model_path="org/model", engine="server",
            server_url="http://localhost:1/v1", request_timeout_seconds=7, thinking=True,
            temperature=0.4, top_p=0.9, max_tokens=77, max_thinking_tokens=33, prefill="Hm.",
        )
    )  # fmt: skip

    options, request = engine.opened[0], engine.asked[0][1]
    assert options.model == "org/model"
    assert options.revision == "v2"
    assert options.trust_remote_code
    assert options.chat_template_kwargs == {"enable_thinking": False}
    assert options.request_timeout_seconds == 7
    assert request.prefill == "Hm."
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p) == (0.4, 0.9)
    assert (sampling.max_tokens, sampling.max_thinking_tokens) == (77, 33)
    assert result.summary.accuracy == 0.5


def test_a_server_is_asked_for_the_base_model_by_its_name(engine, files) -> None:
    evaluate(
        EvaluateConfig.of(
            **files, model_path="none", base_model="served-name", engine="server",
            server_url="http://localhost:1/v1",
        )
    )  # fmt: skip

    assert engine.opened[0].model == "served-name"


def test_predictions_are_handed_over_in_order_with_their_number(engine, files) -> None:
    seen: list[tuple[int, int]] = []

    evaluate(
        EvaluateConfig.of(**files, model_path="org/model"),
        on_prediction=lambda prediction, total: seen.append((prediction.index, total)),
    )

    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_if_nothing_was_answered_there_is_no_result(engine, files) -> None:
    engine.answer = "FAIL"

    with pytest.raises(EngineError, match=r"no input could be answered.*on fire"):
        evaluate(EvaluateConfig.of(**files, model_path="org/model"))


def test_free_text_has_no_labels_to_score(engine, files) -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        evaluate(EvaluateConfig.of(**files | {"task": ROOT / "tasks/persona"}, decoding="scored"))


def test_half_a_character_in_an_answer_does_not_lose_the_result(engine, files, tmp_path) -> None:
    engine.answer = "fr \ud83d"
    result = evaluate(
        EvaluateConfig.of(
            **files | {"task": ROOT / "tasks/persona", "ground_truth_file": None},
            model_path="org/model",
        )
    )
    write_result(tmp_path / "r.json", result)

    assert read_result(tmp_path / "r.json").predictions[0].predicted == "fr \ufffd"


def compared(files: dict[str, object], folder: Path, **options: object) -> Comparison:
    return compare(
        CompareConfig.of(
            **files, teacher_model="org/teacher", student_path="org/student", output_dir=folder,
            score_labels=False, latency_samples=1, concurrency=2, **options,
        )
    )  # fmt: skip


def test_a_cell_is_the_evaluation_that_its_result_records(engine, files, tmp_path: Path) -> None:
    comparison = compared(
        files, tmp_path / "out", teacher_revision="v3", teacher_top_p=0.8,
        teacher_max_thinking_tokens=99, student_trust_remote_code=True,
    )  # fmt: skip

    asked = {
        (request.sampling, request.prefill, len(request.messages), model)
        for model, request in engine.asked
    }
    assert [options.model for options in engine.opened] == ["org/teacher", "org/student"]
    assert engine.opened[0].revision == "v3"
    assert engine.opened[1].trust_remote_code
    again = set()
    for cell in comparison.cells:
        result = read_result(tmp_path / "out" / cell.result_file)
        engine.asked.clear()
        repeated = evaluate(EvaluateConfig.of(**result.config))
        assert [p.predicted for p in repeated.predictions] == [
            p.predicted for p in result.predictions
        ]
        again |= {
            (request.sampling, request.prefill, len(request.messages), model)
            for model, request in engine.asked
        }
    assert again == asked
    assert any("</think>" in prefill for _, prefill, _, _ in again)
    assert any(sampling.max_thinking_tokens == 99 for sampling, _, _, _ in again)


def test_cells_of_one_model_share_it_and_keep_the_order_that_was_asked_for(
    engine, files, tmp_path: Path
) -> None:
    comparison = compared(files, tmp_path / "out", cells="student,teacher_direct,teacher")

    assert [cell.key for cell in comparison.cells] == ["student", "teacher_direct", "teacher"]
    assert [options.model for options in engine.opened] == ["org/teacher", "org/student"]
    assert comparison.student_against_teacher is not None


def test_the_student_can_be_compared_with_itself_under_the_schema(
    engine, card_files, files, tmp_path: Path
) -> None:
    engine.answer = '{"word": "a", "n": 1}'
    files = {name: value for name, value in card_files.items() if name != "ground_truth_file"}
    comparison = compared(files, tmp_path / "out", cells="student,student_constrained")

    assert [cell.accuracy for cell in comparison.cells] == [0.5, 0.5]
    assert {request.sampling.json_schema is not None for _, request in engine.asked} == {
        True,
        False,
    }
    assert len(engine.opened) == 1
    with pytest.raises(ConfigError, match="needs labels"):
        compared(
            files | {"task": ROOT / "tasks/persona"}, tmp_path / "no", cells="student_constrained"
        )


def test_the_teachers_answers_and_tokens_come_from_its_records(files, tmp_path: Path) -> None:
    rows = [
        {
            "index": i, "text": f"text {i}", "history": [], "group": "g", "held_out": True,
            "answer": "de", "teacher_answer": "fr" if i else None, "prompt_tokens": 100,
            "completion_tokens": 10, "seconds": 0.5, "reject_reason": "no_label" if not i else None,
            "outputs": [{"text": "Hm.</think>fr"}],
        }
        for i in range(4)
    ]  # fmt: skip
    records = tmp_path / "train.records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "model": {"name": "org/teacher"}, "counts": {"requests": 40}, "requests_made": 40,
        "seconds": 30.0, "startup_seconds": 10.0, "engine": "vllm",
        "held_out": {"share": 0.1, "seed": 0},
    }  # fmt: skip
    (tmp_path / "train.manifest.json").write_text(json.dumps(manifest))
    config = EvaluateConfig.of(**files, predictions_file=records, with_prompt=True, thinking=True)

    result = evaluate(config)

    assert result.base_model == "org/teacher"
    assert [p.predicted for p in result.predictions] == [None, "fr", "fr", "fr"]
    assert result.reject_reasons == {"no_label": 1}
    assert result.usage is not None
    assert result.usage.seconds_per_query == pytest.approx(0.5)
    assert result.usage.prompt_tokens_per_query == 100

    (tmp_path / "train.manifest.json").write_text(json.dumps(manifest | {"requests_made": 0}))
    assert evaluate(config).usage is None


@pytest.fixture
def card_files(files, tmp_path: Path) -> dict[str, object]:
    """A JSON task, and gold objects as jsonl has them."""
    task = tmp_path / "card"
    task.mkdir()
    schema = {"type": "object", "properties": {"word": {"type": "string"}, "n": {"type": "number"}}}
    (task / "task.yaml").write_text("kind: json\n")
    (task / "prompt.md").write_text("Answer in JSON.")
    (task / "schema.json").write_text(json.dumps(schema))
    rows = [{"text": f"text {i}", "label": {"n": i % 2, "word": "a"}} for i in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files | {
        "task": task, "test_file": tmp_path / "test.jsonl", "ground_truth_file": None,
    }  # fmt: skip


def test_json_answers_are_right_as_objects_and_by_field(engine, card_files, tmp_path) -> None:
    engine.answer = '{"word": "A", "n": 1}'

    result = evaluate(EvaluateConfig.of(**card_files, model_path="org/model"))

    assert result.predictions[1].ground_truth == '{"word":"a","n":1}'
    assert result.summary.accuracy == 0.0  # an object is exact or it is wrong
    assert result.summary.macro_f1 is None
    assert result.field_scores is not None
    assert result.field_scores.fields["$.word"].f1 == 1.0
    assert result.field_scores.fields["$.n"].correct == 2
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json") == result


def test_json_decoding_is_constrained_by_the_schema(engine, card_files) -> None:
    engine.answer = '{"word": "a", "n": 1}'

    result = evaluate(
        EvaluateConfig.of(**card_files, model_path="org/model", decoding="constrained")
    )

    sampling = engine.asked[0][1].sampling
    assert sampling.choices is None
    assert json.loads(sampling.json_schema)["properties"]["word"] == {"type": "string"}
    assert result.summary.accuracy == 0.5
    with pytest.raises(ConfigError, match="needs labels"):
        evaluate(EvaluateConfig.of(**card_files, decoding="scored"))


def test_the_gate_and_mcnemar_judge_whole_objects(engine, card_files, tmp_path) -> None:
    def run(answer: str, **values: object):
        engine.answer = answer
        return evaluate(EvaluateConfig.of(**card_files, model_path="org/model", **values))

    before = run('{"word": "a", "n": 7}')
    write_result(tmp_path / "before.json", before)
    assert before.summary.accuracy == 0.0
    better = run('{"word": "a", "n": 1}', baseline=tmp_path / "before.json", max_drop=0.0)
    assert better.gate is not None
    assert better.gate.status == "passed"
    assert "a gain of 50.00 points" in better.gate.reasons[0]
    below = run("no JSON", min_accuracy=0.5, min_parse_rate=0.5)
    assert below.gate is not None
    assert below.gate.status == "failed"
    assert len(below.gate.reasons) == 2
    rows = [
        {
            "index": i, "text": f"text {i}", "history": [], "group": "g", "held_out": True,
            "teacher_answer": '{"word":"a","n":0}', "prompt_tokens": 1, "completion_tokens": 1,
        }
        for i in range(4)
    ]  # fmt: skip
    (tmp_path / "train.records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    truths = run('{"word": "a", "n": 1}').truths
    assert truths is not None
    assert truths.teacher_gold is not None
    assert truths.teacher_gold.accuracy == 0.5
    assert truths.student_teacher is not None
    assert truths.student_teacher.correct == 0
    assert truths.student_against_teacher is not None
    assert truths.student_against_teacher.only_first_right == (1, 3)
    assert truths.student_against_teacher.only_second_right == (0, 2)
