"""Labelling from inputs to files, with a scripted teacher."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from labelling.scripted import (
    LANGUAGE_TASK,
    QUIET,
    ScriptedEngine,
    answer,
    completion,
    files_of,
    make_job,
    write_inputs,
)

from prompt_distillation.data.dataset_files import Shard
from prompt_distillation.data.files import read_json, read_jsonl
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.engines.base import RequestFailedError
from prompt_distillation.errors import (
    EngineError,
    InputError,
    OutputExistsError,
    TaskError,
)
from prompt_distillation.labelling.job import Job
from prompt_distillation.labelling.keys import Teacher
from prompt_distillation.labelling.run import create_dataset, label_one_shard, merge_shards
from prompt_distillation.labelling.votes import Policy


def label(job: Job, engine: ScriptedEngine | None = None, *, overwrite: bool = False):
    engine = engine or ScriptedEngine()
    return create_dataset(job, engine.open, overwrite=overwrite, reporting=QUIET), engine


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_jsonl(path)]


def asked(engine: ScriptedEngine) -> set[str]:
    return {request.messages[-1]["content"] for request in engine.requests}


def in_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_dataset_holds_the_inputs_in_order_and_nothing_but_messages(tmp_path):
    write_inputs(tmp_path, 40)
    counts, engine = label(make_job(tmp_path), ScriptedEngine(lambda _: answer("fr")))
    train, held_out = rows(tmp_path / "out.jsonl"), rows(tmp_path / "out.heldout.jsonl")
    assert [list(row) for row in train + held_out] == [["messages"]] * 40
    texts = [row["messages"][0]["content"] for row in train]
    assert texts == sorted(texts, key=lambda text: int(text.split()[-1]))
    assert train[0]["messages"][1] == {"role": "assistant", "content": "fr"}
    records = rows(tmp_path / "out.records.jsonl")
    assert [record["index"] for record in records] == list(range(40))
    for record in records:
        assert record["held_out"] == is_held_out(record["group"], share=0.2, seed=0)
    assert (counts.train, counts.held_out) == (len(train), len(held_out))
    # The teacher saw the prompt; the student will not.
    assert engine.requests[0].messages[0]["role"] == "system"
    assert read_json(tmp_path / "out.manifest.json")["held_out"] == {"share": 0.2, "seed": 0}


def test_what_got_no_label_is_in_the_rejects_with_its_reason(tmp_path):
    write_inputs(tmp_path, 12)

    def reply(request):
        number = int(request.messages[-1]["content"].split()[-1])
        if number == 3:
            raise RequestFailedError("connection cut five times")
        return completion("no end") if number == 5 else answer("klingon" if number == 7 else "de")

    counts, engine = label(make_job(tmp_path, policy=Policy(max_retries=2)), ScriptedEngine(reply))
    rejects = rows(tmp_path / "out.rejects.jsonl")
    assert [(row["index"], row["reason"], row["attempts"]) for row in rejects] == [
        (3, "engine_error", 1),
        (5, "no_end_of_thinking", 3),
        (7, "unknown_label", 3),
    ]
    assert rejects[0]["error"] == "connection cut five times"
    assert (counts.inputs, counts.rejected, len(engine.requests)) == (12, 3, 16)


def test_a_finished_run_is_told_so_and_loads_no_teacher(tmp_path, caplog):
    write_inputs(tmp_path)
    label(make_job(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    caplog.set_level("INFO")
    counts, engine = label(make_job(tmp_path))
    assert (counts, engine.opened) == (None, 0)
    assert "finished already" in caplog.text
    after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {p.name for p in before if before[p] != after[p]} <= {"out.journal.lock"}


def test_failed_requests_are_asked_for_again_without_being_told_to(tmp_path):
    write_inputs(tmp_path, 8)
    down = True

    def reply(request):
        if down and request.messages[-1]["content"].endswith("3"):
            raise RequestFailedError("overloaded")
        return answer("fr")

    counts, _ = label(make_job(tmp_path), ScriptedEngine(reply))
    assert counts.rejects == {"engine_error": 1}
    down = False
    counts, engine = label(make_job(tmp_path), ScriptedEngine(reply))
    assert counts.rejected == 0
    assert asked(engine) == {"sentence number 3"}


def test_an_engine_that_is_gone_stops_the_run_and_loses_nothing(tmp_path):
    write_inputs(tmp_path, 50)
    served = 0

    def reply(request):
        nonlocal served
        served += 1
        if served > 20:
            raise EngineError("the GPU fell off the bus")
        return answer("fr")

    with pytest.raises(EngineError, match="fell off"):
        label(make_job(tmp_path), ScriptedEngine(reply))
    assert not (tmp_path / "out.jsonl").exists()
    _, engine = label(make_job(tmp_path), ScriptedEngine(lambda _: answer("fr")))
    assert len(engine.requests) == 30


def test_changing_one_input_relabels_one(tmp_path):
    path = write_inputs(tmp_path)
    label(make_job(tmp_path))
    path.write_text(path.read_text().replace("number 7\n", "number seven\n"))
    with pytest.raises(OutputExistsError, match="the inputs changed"):
        label(make_job(tmp_path))
    _, engine = label(make_job(tmp_path), overwrite=True)
    assert asked(engine) == {"sentence number seven"}


def test_changing_the_prompt_relabels_all_and_says_so(tmp_path, caplog):
    write_inputs(tmp_path)
    task = tmp_path / "task"
    shutil.copytree(LANGUAGE_TASK, task)
    label(make_job(tmp_path, task=task))
    prompt = task / "prompt.md"
    prompt.write_text(prompt.read_text() + "\nBe quick.\n")
    with pytest.raises(OutputExistsError, match="the prompt changed"):
        label(make_job(tmp_path, task=task))
    _, engine = label(make_job(tmp_path, task=task), overwrite=True)
    assert len(asked(engine)) == 60
    assert "the prompt changed" in caplog.text
    assert "all inputs are labelled anew" in caplog.text


def test_a_new_answer_pattern_reads_the_journal_again_for_nothing(tmp_path):
    write_inputs(tmp_path, 20)
    task = tmp_path / "task"
    shutil.copytree(LANGUAGE_TASK, task)
    engine = ScriptedEngine(lambda _: completion("hm</think>Verdict: fr"))
    counts, _ = label(make_job(tmp_path, task=task), engine)
    assert counts.rejects == {"no_label": 20}
    settings = task / "task.yaml"
    settings.write_text(settings.read_text().replace("Final Answer", "Verdict"))
    counts, engine = label(make_job(tmp_path, task=task), overwrite=True)
    assert (counts.rejected, engine.opened) == (0, 0)


def test_more_votes_pay_only_for_the_new_ones(tmp_path):
    write_inputs(tmp_path, 30)
    _, three = label(make_job(tmp_path, policy=Policy(num_votes=3)))
    fresh = tmp_path / "fresh"
    write_inputs(fresh, 30)
    _, five_alone = label(make_job(fresh, policy=Policy(num_votes=5)))
    _, five = label(make_job(tmp_path, policy=Policy(num_votes=5)), overwrite=True)
    assert len(three.requests) + len(five.requests) == len(five_alone.requests)
    assert files_of(tmp_path) == files_of(fresh)


def test_duplicates_are_labelled_once_and_written_for_each(tmp_path):
    in_file(tmp_path / "inputs.txt", "Bonjour\nbonjour \nHallo\nＢonjour\nHallo\n")
    counts, engine = label(make_job(tmp_path, held_out=0.0))
    assert len(asked(engine)) == 2
    texts = [row["messages"][0]["content"] for row in rows(tmp_path / "out.jsonl")]
    assert texts == ["Bonjour", "bonjour ", "Hallo", "Ｂonjour", "Hallo"]
    assert (counts.inputs, counts.duplicates, counts.requests) == (5, 3, len(engine.requests))


def test_exact_duplicates_only_if_asked(tmp_path):
    in_file(tmp_path / "inputs.txt", "Bonjour\nbonjour\nBonjour\n")
    job = dataclasses.replace(make_job(tmp_path), duplicates="exact")
    _, engine = label(job, ScriptedEngine(lambda _: answer("fr")))
    assert len(engine.requests) == 2


def test_a_conversation_keeps_its_turns(tmp_path):
    turns = [
        {"role": "user", "content": "Salut"},
        {"role": "assistant", "content": "Salut!"},
        {"role": "user", "content": "Ça va?"},
    ]
    in_file(tmp_path / "inputs.jsonl", json.dumps({"messages": turns}) + "\n")
    engine = ScriptedEngine(lambda _: answer("fr"))
    label(make_job(tmp_path, inputs="inputs.jsonl", held_out=0.0), engine)
    assert list(engine.requests[0].messages[1:]) == turns
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["messages"] == [*turns, {"role": "assistant", "content": "fr"}]


def test_gold_and_groups_are_carried_and_accuracy_is_counted(tmp_path):
    write_inputs(tmp_path, 10)
    gold = [{"label": "fr" if n < 8 else "de", "group": f"g{n // 2}"} for n in range(10)]
    in_file(tmp_path / "inputs.gold.jsonl", "\n".join(map(json.dumps, gold)))
    counts, _ = label(make_job(tmp_path), ScriptedEngine(lambda _: answer("fr")))
    assert (counts.gold, counts.gold_correct) == (10, 8)
    records = rows(tmp_path / "out.records.jsonl")
    assert [(r["gold"], r["group"]) for r in records] == [(g["label"], g["group"]) for g in gold]


def test_an_unknown_gold_label_is_found_before_the_teacher_is_loaded(tmp_path):
    write_inputs(tmp_path, 2)
    in_file(tmp_path / "inputs.gold.jsonl", '{"label": "fr"}\n{"label": "xx"}\n')
    engine = ScriptedEngine()
    with pytest.raises(TaskError, match=r"input 2: unknown label 'xx'"):
        label(make_job(tmp_path), engine)
    assert engine.opened == 0


def test_shards_merge_into_what_one_process_writes(tmp_path):
    for folder in ("one", "many"):
        write_inputs(tmp_path / folder, 90)
    policy = Policy(num_votes=3)
    label(make_job(tmp_path / "one", policy=policy))
    requests = 0
    for index in range(3):
        job = make_job(tmp_path / "many", policy=policy, shard=Shard(index=index, count=3))
        engine = ScriptedEngine()
        label_one_shard(job, engine.open, overwrite=False, reporting=QUIET)
        requests += len(engine.requests)
    assert not (tmp_path / "many" / "out.jsonl").exists()
    counts = merge_shards(job, overwrite=False, reporting=QUIET)
    assert counts is not None
    assert counts.requests == requests
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")


def test_merging_names_the_shard_that_is_missing_or_unfinished(tmp_path):
    write_inputs(tmp_path, 50)
    job = make_job(tmp_path, shard=Shard(index=0, count=3))
    label_one_shard(job, ScriptedEngine().open, overwrite=False, reporting=QUIET)
    half = make_job(tmp_path, shard=Shard(index=2, count=3))

    def reply(request):
        raise EngineError("gone")

    with pytest.raises(EngineError):
        label_one_shard(half, ScriptedEngine(reply).open, overwrite=False, reporting=QUIET)
    with pytest.raises(InputError, match=r"shard 1 was never started.*shard 2 has \d+ inputs"):
        merge_shards(job, overwrite=False, reporting=QUIET)
    assert not (tmp_path / "out.jsonl").exists()


def test_work_cut_anew_keeps_what_was_paid_for(tmp_path):
    write_inputs(tmp_path, 40)
    job = make_job(tmp_path, shard=Shard(index=0, count=2))
    first = ScriptedEngine()
    label_one_shard(job, first.open, overwrite=False, reporting=QUIET)
    _, rest = label(make_job(tmp_path))
    assert asked(first) | asked(rest) == {f"sentence number {n}" for n in range(40)}
    assert not asked(first) & asked(rest)


def test_a_failure_in_a_shard_is_a_reject_of_the_merged_dataset(tmp_path):
    write_inputs(tmp_path, 10)

    def reply(request):
        if request.messages[-1]["content"].endswith("3"):
            raise RequestFailedError("timeout")
        return answer("fr")

    for index in range(2):
        job = make_job(tmp_path, shard=Shard(index=index, count=2))
        label_one_shard(job, ScriptedEngine(reply).open, overwrite=False, reporting=QUIET)
    counts = merge_shards(job, overwrite=False, reporting=QUIET)
    assert counts is not None
    assert counts.rejects == {"engine_error": 1}


def test_corrections_go_before_the_teacher(tmp_path):
    write_inputs(tmp_path, 10)
    job = make_job(tmp_path, held_out=0.0)
    label(job, ScriptedEngine(lambda _: answer("fr")))
    correction = {"text": "Sentence  number 4", "answer": "en"}
    in_file(tmp_path / "out.corrections.jsonl", json.dumps(correction) + "\n")
    with pytest.raises(OutputExistsError, match="the corrections changed"):
        label(job)
    counts, engine = label(job, overwrite=True)
    assert (counts.corrected, engine.opened) == (1, 0)
    answers = [row["messages"][-1]["content"] for row in rows(tmp_path / "out.jsonl")]
    assert Counter(answers) == {"fr": 9, "en": 1}
    record = rows(tmp_path / "out.records.jsonl")[4]
    assert (record["answer"], record["teacher_answer"]) == ("en", "fr")


def test_another_seed_is_other_work(tmp_path):
    write_inputs(tmp_path, 10)
    label(make_job(tmp_path))
    teacher = Teacher(model="scripted", seed=1)
    with pytest.raises(OutputExistsError, match="seed was 0 and is 1"):
        label(make_job(tmp_path, teacher=teacher))
    _, engine = label(make_job(tmp_path, teacher=teacher), overwrite=True)
    assert len(asked(engine)) == 10


def test_another_model_is_named_as_it_was_given(tmp_path, caplog):
    write_inputs(tmp_path, 4)
    folder = tmp_path / "teacher"
    in_file(folder / "config.json", "{}")
    here = Teacher(model=str(folder))
    label(make_job(tmp_path, teacher=here))
    with pytest.raises(OutputExistsError, match=f"model was '{folder}' and is 'scripted'"):
        label(make_job(tmp_path))
    in_file(folder / "config.json", '{"other": 1}')
    with pytest.raises(OutputExistsError, match=f"the files of the model at {folder} changed"):
        label(make_job(tmp_path, teacher=here))
    label(make_job(tmp_path), overwrite=True)
    assert "(the model changed)" in caplog.text


def test_a_file_without_its_manifest_is_not_overwritten(tmp_path):
    write_inputs(tmp_path, 4)
    in_file(tmp_path / "out.jsonl", "somebody else's\n")
    with pytest.raises(OutputExistsError):
        label(make_job(tmp_path))
    assert (tmp_path / "out.jsonl").read_text() == "somebody else's\n"


def test_requests_in_flight_stay_within_the_engine_s_bound(tmp_path):
    write_inputs(tmp_path, 30)
    in_flight = most = 0

    class Counting(ScriptedEngine):
        async def complete(self, request):
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            try:
                return await super().complete(request)
            finally:
                in_flight -= 1

    label(make_job(tmp_path, policy=Policy(num_votes=5)), Counting(concurrency=4))
    assert most == 4


@pytest.mark.parametrize(("held_out", "warned"), [(0.01, True), (0.0, False), (0.5, False)])
def test_nothing_held_out_is_told_while_it_can_be_mended(tmp_path, caplog, held_out, warned):
    lines = [json.dumps({"text": f"text {n}", "group": n % 8}) for n in range(40)]
    in_file(tmp_path / "inputs.jsonl", "\n".join(lines) + "\n")
    job = make_job(tmp_path, held_out=held_out, inputs="inputs.jsonl")
    counts, _ = label(job, ScriptedEngine(lambda _: answer("fr")))
    assert (counts.held_out > 0) is (held_out == 0.5)
    assert ("8 groups and --held_out is 0.01" in caplog.text) is warned
