"""Labelling from inputs to files, with a scripted teacher."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from labelling.scripted import (
    LANGUAGE_TASK,
    ScriptedEngine,
    answer,
    completion,
    files_of,
    run_label,
    write_inputs,
)

from prompt_distillation.data.files import read_json, read_jsonl
from prompt_distillation.data.splits import is_held_out
from prompt_distillation.engines.base import RequestFailedError
from prompt_distillation.errors import (
    ConfigError,
    EngineError,
    InputError,
    NoLabelsError,
    OutputExistsError,
    TaskError,
)


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
    result, engine = run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")))
    train, held_out = rows(tmp_path / "out.jsonl"), rows(tmp_path / "out.heldout.jsonl")
    assert [list(row) for row in train + held_out] == [["messages"]] * 40
    texts = [row["messages"][0]["content"] for row in train]
    assert texts == sorted(texts, key=lambda text: int(text.split()[-1]))
    assert train[0]["messages"][1] == {"role": "assistant", "content": "fr"}
    records = rows(tmp_path / "out.records.jsonl")
    assert [record["index"] for record in records] == list(range(40))
    for record in records:
        assert record["held_out"] == is_held_out(record["group"], share=0.2, seed=0)
    assert (result.counts.train, result.counts.held_out) == (len(train), len(held_out))
    # The teacher saw the prompt; the student will not.
    assert engine.requests[0].messages[0]["role"] == "system"
    manifest = read_json(tmp_path / "out.manifest.json")
    assert manifest["held_out"] == {"share": 0.2, "seed": 0}
    assert (manifest["engine"], manifest["requests_made"]) == ("scripted", 40)


def test_what_got_no_label_is_in_the_rejects_with_its_reason(tmp_path):
    write_inputs(tmp_path, 12)

    def reply(request):
        number = int(request.messages[-1]["content"].split()[-1])
        if number == 3:
            raise RequestFailedError("connection cut five times")
        return completion("no end") if number == 5 else answer("klingon" if number == 7 else "de")

    result, engine = run_label(tmp_path, ScriptedEngine(reply), max_retries=2)
    rejects = rows(tmp_path / "out.rejects.jsonl")
    assert [(row["index"], row["reason"], row["attempts"]) for row in rejects] == [
        (3, "engine_error", 1),
        (5, "no_end_of_thinking", 3),
        (7, "unknown_label", 3),
    ]
    assert rejects[0]["error"] == "connection cut five times"
    assert (result.counts.inputs, result.counts.rejected, len(engine.requests)) == (12, 3, 16)


def test_a_finished_run_is_told_so_and_loads_no_teacher(tmp_path, caplog):
    write_inputs(tmp_path)
    run_label(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    caplog.set_level("INFO")
    result, engine = run_label(tmp_path)
    assert (result.state, result.counts.inputs, engine.opened) == ("finished before", 60, 0)
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

    result, _ = run_label(tmp_path, ScriptedEngine(reply))
    assert result.counts.rejects == {"engine_error": 1}
    down = False
    result, engine = run_label(tmp_path, ScriptedEngine(reply))
    assert result.counts.rejected == 0
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
        run_label(tmp_path, ScriptedEngine(reply))
    assert not (tmp_path / "out.jsonl").exists()
    _, engine = run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")))
    assert len(engine.requests) == 30


def test_changing_one_input_relabels_one(tmp_path):
    path = write_inputs(tmp_path)
    run_label(tmp_path)
    path.write_text(path.read_text().replace("number 7\n", "number seven\n"))
    with pytest.raises(OutputExistsError, match="the inputs changed"):
        run_label(tmp_path)
    _, engine = run_label(tmp_path, overwrite=True)
    assert asked(engine) == {"sentence number seven"}


def test_changing_the_prompt_relabels_all_and_says_so(tmp_path, caplog):
    write_inputs(tmp_path)
    task = tmp_path / "task"
    shutil.copytree(LANGUAGE_TASK, task)
    run_label(tmp_path, task=task)
    prompt = task / "prompt.md"
    prompt.write_text(prompt.read_text() + "\nBe quick.\n")
    with pytest.raises(OutputExistsError, match="the prompt changed"):
        run_label(tmp_path, task=task)
    _, engine = run_label(tmp_path, task=task, overwrite=True)
    assert len(asked(engine)) == 60
    assert "the prompt changed" in caplog.text
    assert "all inputs are labelled again" in caplog.text


def test_a_new_answer_pattern_reads_the_journal_again_for_nothing(tmp_path):
    write_inputs(tmp_path, 20)
    task = tmp_path / "task"
    shutil.copytree(LANGUAGE_TASK, task)
    engine = ScriptedEngine(lambda _: completion("hm</think>Verdict: fr"))
    with pytest.raises(NoLabelsError, match="all 20 inputs were rejected"):
        run_label(tmp_path, engine, task=task)
    settings = task / "task.yaml"
    settings.write_text(settings.read_text().replace("Final Answer", "Verdict"))
    result, engine = run_label(tmp_path, task=task, overwrite=True)
    assert (result.counts.rejected, engine.opened) == (0, 0)


def test_more_votes_pay_only_for_the_new_ones(tmp_path):
    write_inputs(tmp_path, 30)
    _, three = run_label(tmp_path, num_votes=3)
    fresh = tmp_path / "fresh"
    write_inputs(fresh, 30)
    _, five_alone = run_label(fresh, num_votes=5)
    _, five = run_label(tmp_path, num_votes=5, overwrite=True)
    assert len(three.requests) + len(five.requests) == len(five_alone.requests)
    assert files_of(tmp_path) == files_of(fresh)


def test_duplicates_are_labelled_once_and_written_for_each(tmp_path):
    in_file(tmp_path / "inputs.txt", "Bonjour\nbonjour \nHallo\nＢonjour\nHallo\n")
    result, engine = run_label(tmp_path, held_out=0.0)
    assert len(asked(engine)) == 2
    texts = [row["messages"][0]["content"] for row in rows(tmp_path / "out.jsonl")]
    assert texts == ["Bonjour", "bonjour ", "Hallo", "Ｂonjour", "Hallo"]
    counts = result.counts
    assert (counts.inputs, counts.duplicates, counts.requests) == (5, 3, len(engine.requests))


def test_exact_duplicates_only_if_asked(tmp_path):
    in_file(tmp_path / "inputs.txt", "Bonjour\nbonjour\nBonjour\n")
    engine = ScriptedEngine(lambda _: answer("fr"))
    run_label(tmp_path, engine, duplicates="exact")
    assert len(engine.requests) == 2


def test_a_conversation_keeps_its_turns(tmp_path):
    turns = [
        {"role": "user", "content": "Salut"},
        {"role": "assistant", "content": "Salut!"},
        {"role": "user", "content": "Ça va?"},
    ]
    in_file(tmp_path / "inputs.jsonl", json.dumps({"messages": turns}) + "\n")
    engine = ScriptedEngine(lambda _: answer("fr"))
    run_label(tmp_path, engine, input_file=tmp_path / "inputs.jsonl", held_out=0.0)
    assert list(engine.requests[0].messages[1:]) == turns
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["messages"] == [*turns, {"role": "assistant", "content": "fr"}]


def test_gold_and_groups_are_carried_and_accuracy_is_counted(tmp_path):
    write_inputs(tmp_path, 10)
    gold = [{"label": "fr" if n < 8 else "de", "group": f"g{n // 2}"} for n in range(10)]
    in_file(tmp_path / "inputs.gold.jsonl", "\n".join(map(json.dumps, gold)))
    result, _ = run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")))
    assert (result.counts.gold, result.teacher_accuracy) == (10, 0.8)
    assert "teacher_accuracy=0.8000 (0.49" in repr(result)
    records = rows(tmp_path / "out.records.jsonl")
    assert [(r["gold"], r["group"]) for r in records] == [(g["label"], g["group"]) for g in gold]


def test_an_unknown_gold_label_is_found_before_the_teacher_is_loaded(tmp_path):
    write_inputs(tmp_path, 2)
    in_file(tmp_path / "inputs.gold.jsonl", '{"label": "fr"}\n{"label": "xx"}\n')
    engine = ScriptedEngine()
    with pytest.raises(TaskError, match=r"input 2: unknown label 'xx'"):
        run_label(tmp_path, engine)
    assert engine.opened == 0


def test_shards_merge_into_what_one_process_writes(tmp_path):
    for folder in ("one", "many"):
        write_inputs(tmp_path / folder, 90)
    run_label(tmp_path / "one", num_votes=3)
    requests = 0
    for index in range(3):
        shard = {"num_votes": 3, "shard_index": index, "num_shards": 3}
        result, engine = run_label(tmp_path / "many", **shard)
        requests += len(engine.requests)
        assert (result.state, result.counts) == ("shard labelled", None)
    assert not (tmp_path / "many" / "out.jsonl").exists()
    result, engine = run_label(tmp_path / "many", num_votes=3, num_shards=3, merge=True)
    assert (result.counts.requests, engine.opened) == (requests, 0)
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")


def test_merging_names_the_shard_that_is_missing_or_unfinished(tmp_path):
    write_inputs(tmp_path, 50)
    run_label(tmp_path, shard_index=0, num_shards=3)

    def reply(request):
        raise EngineError("gone")

    with pytest.raises(EngineError):
        run_label(tmp_path, ScriptedEngine(reply), shard_index=2, num_shards=3)
    with pytest.raises(InputError, match=r"shard 1 was never started.*shard 2 has \d+ inputs"):
        run_label(tmp_path, num_shards=3, merge=True)
    assert not (tmp_path / "out.jsonl").exists()


def test_work_cut_anew_keeps_what_was_paid_for(tmp_path):
    write_inputs(tmp_path, 40)
    _, first = run_label(tmp_path, shard_index=0, num_shards=2)
    _, rest = run_label(tmp_path)
    assert asked(first) | asked(rest) == {f"sentence number {n}" for n in range(40)}
    assert not asked(first) & asked(rest)


def test_a_failure_in_a_shard_is_a_reject_of_the_merged_dataset(tmp_path):
    write_inputs(tmp_path, 10)

    def reply(request):
        if request.messages[-1]["content"].endswith("3"):
            raise RequestFailedError("timeout")
        return answer("fr")

    for index in range(2):
        run_label(tmp_path, ScriptedEngine(reply), shard_index=index, num_shards=2)
    result, _ = run_label(tmp_path, num_shards=2, merge=True)
    assert result.counts.rejects == {"engine_error": 1}


def test_corrections_go_before_the_teacher(tmp_path):
    write_inputs(tmp_path, 10)
    run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")), held_out=0.0)
    correction = {"text": "Sentence  number 4", "answer": "en"}
    in_file(tmp_path / "out.corrections.jsonl", json.dumps(correction) + "\n")
    with pytest.raises(OutputExistsError, match="the corrections changed"):
        run_label(tmp_path, held_out=0.0)
    result, engine = run_label(tmp_path, held_out=0.0, overwrite=True)
    assert (result.counts.corrected, engine.opened) == (1, 0)
    answers = [row["messages"][-1]["content"] for row in rows(tmp_path / "out.jsonl")]
    assert Counter(answers) == {"fr": 9, "en": 1}
    record = rows(tmp_path / "out.records.jsonl")[4]
    assert (record["answer"], record["teacher_answer"]) == ("en", "fr")


def test_another_seed_is_other_work(tmp_path):
    write_inputs(tmp_path, 10)
    run_label(tmp_path)
    with pytest.raises(OutputExistsError, match="seed was 0 and is 1"):
        run_label(tmp_path, seed=1)
    _, engine = run_label(tmp_path, seed=1, overwrite=True)
    assert len(asked(engine)) == 10


def test_another_model_is_named_as_it_was_given(tmp_path, caplog):
    write_inputs(tmp_path, 4)
    folder = tmp_path / "teacher"
    in_file(folder / "config.json", "{}")
    in_file(folder / "model.safetensors", "")
    run_label(tmp_path, model_name=folder)
    with pytest.raises(OutputExistsError, match=f"model was '{folder}' and is 'scripted'"):
        run_label(tmp_path)
    in_file(folder / "config.json", '{"other": 1}')
    with pytest.raises(OutputExistsError, match=f"the files of the model at {folder} changed"):
        run_label(tmp_path, model_name=folder)
    run_label(tmp_path, overwrite=True)
    assert "(the model changed)" in caplog.text


def test_a_file_without_its_manifest_is_not_overwritten(tmp_path):
    write_inputs(tmp_path, 4)
    in_file(tmp_path / "out.jsonl", "somebody else's\n")
    with pytest.raises(OutputExistsError):
        run_label(tmp_path)
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

    run_label(tmp_path, Counting(concurrency=4), num_votes=5)
    assert most == 4


@pytest.mark.parametrize(("held_out", "warned"), [(0.01, True), (0.0, False), (0.5, False)])
def test_nothing_held_out_is_told_while_it_can_be_mended(tmp_path, caplog, held_out, warned):
    lines = [json.dumps({"text": f"text {n}", "group": n % 8}) for n in range(40)]
    in_file(tmp_path / "inputs.jsonl", "\n".join(lines) + "\n")
    teacher = ScriptedEngine(lambda _: answer("fr"))
    source = tmp_path / "inputs.jsonl"
    result, _ = run_label(tmp_path, teacher, held_out=held_out, input_file=source)
    assert (result.counts.held_out > 0) is (held_out == 0.5)
    assert ("none of the 8 groups of inputs is held out" in caplog.text) is warned


def test_one_group_held_out_of_one_is_told_before_anything_is_paid_for(tmp_path):
    rows = [{"text": f"text {n}", "group": "only"} for n in range(5)]
    source = in_file(tmp_path / "inputs.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    engine = ScriptedEngine()
    with pytest.raises(InputError, match=r"all 5 inputs .* 1 groups.*--held_out 0"):
        run_label(tmp_path, engine, input_file=source, held_out=0.99)
    assert engine.opened == 0


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    write_inputs(tmp_path, 30)
    held_out = {f"sentence number {n}" for n in range(30)}
    run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")))
    held_out -= {row["messages"][0]["content"] for row in rows(tmp_path / "out.jsonl")}

    def reply(request):
        kept = request.messages[-1]["content"] in held_out
        return answer("fr") if kept else completion("no end")

    with pytest.raises(NoLabelsError, match=rf"{len(held_out)} inputs are held out"):
        run_label(tmp_path, ScriptedEngine(reply), seed=0, max_tokens=9, overwrite=True)


@pytest.mark.parametrize("name", ["out.jsonl", "out.heldout.jsonl", "out.records.jsonl"])
@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_never_replaced(tmp_path, name, link):
    source = in_file(tmp_path / name, '{"text": "the only copy"}\n')
    given = tmp_path / "link.jsonl" if link else source
    if link:
        given.symlink_to(source)
    for overwrite in (False, True):
        with pytest.raises(ConfigError) as told:
            run_label(tmp_path, input_file=given, held_out=0.0, overwrite=overwrite)
        assert "--overwrite" not in str(told.value)
    assert source.read_text() == '{"text": "the only copy"}\n'
    assert not (tmp_path / "out.journal.jsonl").exists()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 5, "host": "a", "since": "b"}\n'])
def test_a_lock_that_a_run_left_behind_stops_nobody(tmp_path, content):
    write_inputs(tmp_path, 4)
    in_file(tmp_path / "out.journal.lock", content)
    assert run_label(tmp_path, held_out=0.0)[0].state == "written"


@pytest.mark.parametrize(
    "name",
    [
        "out.jsonl",
        "out.rejects.jsonl",
        "out.manifest.json",
        "out.journal.jsonl",
        "out.journal.lock",
    ],
)
def test_a_file_that_labelling_did_not_write_is_kept(tmp_path, name):
    write_inputs(tmp_path, 4)
    path = in_file(tmp_path / name, '{"mine": true}\n')
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="was not written by this command"):
            run_label(tmp_path, overwrite=overwrite)
    assert path.read_text() == '{"mine": true}\n'


def test_a_dataset_edited_by_hand_is_kept(tmp_path):
    write_inputs(tmp_path, 4)
    run_label(tmp_path, held_out=0.0)
    path = tmp_path / "out.jsonl"
    in_file(path, path.read_text() + '{"messages": []}\n')
    with pytest.raises(OutputExistsError, match="move it away"):
        run_label(tmp_path, held_out=0.0, overwrite=True, seed=1)


def test_a_run_killed_while_files_were_put_in_place_ends_them(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    run_label(tmp_path)
    replace = os.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (
        (_ for _ in ()).throw(KeyboardInterrupt) if target.name == "out.jsonl"
        else replace(path, target)
    ))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run_label(tmp_path, held_out=0.5, overwrite=True)
    monkeypatch.undo()
    run_label(tmp_path, held_out=0.5)
    whole = tmp_path / "whole"
    write_inputs(whole)
    run_label(whole, held_out=0.5)
    assert files_of(tmp_path) == files_of(whole)


def test_half_characters_in_answers_and_errors_cost_nothing(tmp_path):
    task = tmp_path / "task"
    task.mkdir()
    in_file(task / "task.yaml", "name: say\nkind: generation\n")
    in_file(task / "prompt.md", "Say something.\n")
    write_inputs(tmp_path, 10)

    def reply(request):
        if request.messages[-1]["content"].endswith("3"):
            raise RequestFailedError("the server said \ud800")
        return dataclasses.replace(completion("hm</think>fine \ufffd"), repaired=True)

    result, _ = run_label(tmp_path, ScriptedEngine(reply), task=task, held_out=0.0)
    assert (result.counts.train, result.counts.repaired) == (9, 9)
    assert rows(tmp_path / "out.jsonl")[0]["messages"][-1]["content"] == "fine \ufffd"
    assert rows(tmp_path / "out.rejects.jsonl")[0]["error"] == "the server said \ufffd"
    assert read_json(tmp_path / "out.manifest.json")["counts"]["repaired"] == 9


def test_what_was_done_is_counted_apart(tmp_path, caplog):
    caplog.set_level("INFO")
    in_file(tmp_path / "inputs.txt", "one\ntwo\nthree\nTwo\n")
    run_label(tmp_path, held_out=0.0)
    assert "labelled 3 inputs; 1 duplicates get the same labels" in caplog.text
    assert "before" not in caplog.text
    caplog.clear()
    in_file(tmp_path / "inputs.txt", "one\ntwo\nthree\nfour\n")
    run_label(tmp_path, held_out=0.0, overwrite=True)
    assert "labelled 1 inputs; 3 were labelled before" in caplog.text


def test_the_prefill_is_sent_and_is_other_work(tmp_path):
    write_inputs(tmp_path, 4)
    _, engine = run_label(tmp_path, prefill="Final", held_out=0.0)
    assert {request.prefill for request in engine.requests} == {"Final"}
    with pytest.raises(OutputExistsError, match="prefill was 'Final' and is None"):
        run_label(tmp_path, held_out=0.0)


def test_the_first_failures_are_shown_with_their_reason(tmp_path, caplog, capsys):
    write_inputs(tmp_path, 40)

    def reply(request):
        raise RequestFailedError("HTTP 503: no\nroom")

    with pytest.raises(NoLabelsError):
        run_label(tmp_path, ScriptedEngine(reply, delay_seconds=0.01), progress_seconds=0.1)
    assert caplog.text.count("a request failed: HTTP 503: no room") == 1
    shown = capsys.readouterr().err
    assert "100.0% parsed" not in shown
    assert "0.0% parsed" in shown
