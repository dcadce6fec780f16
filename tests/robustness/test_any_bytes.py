"""Whatever bytes a file holds: the command works or ends in one line, and harms nothing.

What each run must keep is in `Trial.finish`: exit code 0 or 2, no traceback, one line of error, and
every file that was there before is the same.
"""

import json
import signal

import pytest
from hostile_cases.fixtures import (
    CHECKPOINT_FLAGS,
    chat_row,
    input_lines,
    server_flags,
    train_flags,
)
from hostile_cases.scripted_server import Reply, ScriptedServer, completion, labels
from hostile_cases.text_is_data import TASK, read_rows, written
from hostile_cases.training_faults import PARTS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


def examples(count):
    """Settings of a test that starts a process for each of its ``count`` examples."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # an example is short, and a process each
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


ODD_BYTES = st.sampled_from(
    [b"\0", b"\xff", b"\r", b"\n", b'"', b"\\ud83d", b"[", b"{", b"'", b"\xe2\x80\xa8", b"null",
     b"-", b":", b"&a ", b"*a", b"!!", b"9" * 5000, b"\x1f\x8b", b"\xfe\xff", b"<|im_end|>", b"\t"]
)  # fmt: skip


@st.composite
def nearly(draw, sound):
    """Sound content with a few places cut out, doubled or replaced."""
    content = sound
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        middle = draw(st.one_of(ODD_BYTES, st.binary(max_size=8), st.just(content[start:end] * 2)))
        content = content[:start] + middle + content[end:]
    return content


def any_bytes(*sound):
    """Bytes out of nowhere, or something sound that was damaged."""
    return st.one_of(st.binary(max_size=60), *(nearly(content.encode()) for content in sound))


TABLE = "text,label,group\nGuten Tag,de,a\nAdieu,fr,b\n"
ROWS = '{"text": "Guten Tag", "label": "de"}\n{"text": "Adieu", "group": "b"}\n'
CHATS = chat_row("Guten Tag") + chat_row("Adieu", "fr")


def serve(trial, script):
    server = ScriptedServer(script)
    trial.on_close(server.close)
    return server


def label(trial, server, *flags):
    own = ["--output_file=out.jsonl", *server_flags(server.url)]
    return trial.run("create_data", *own, *flags)


@given(
    kind=st.sampled_from(["txt", "jsonl", "csv", "tsv", "parquet"]),
    content=any_bytes(TABLE, ROWS, CHATS, TABLE.replace(",", "\t")),
)
@examples(25)
def test_inputs_of_any_bytes(new_trial, kind, content):
    with new_trial() as trial:
        trial.write(f"in.{kind}", content)
        label(trial, serve(trial, labels()), f"--input_file=in.{kind}", TASK)
        written(trial)


@given(content=any_bytes(CHATS))
@examples(8)
def test_training_rows_of_any_bytes(new_trial, content):
    with new_trial() as trial:
        trial.write("rows.jsonl", content)
        # A model that is not there: rows are read, and refused, before it is missed.
        trial.run("train", *train_flags("no-model", "rows.jsonl", "run"))


TASK_YAML = (
    "name: mine\nkind: classification\nprompt_file: prompt.md\nlabels: {de: German, fr: French}\n"
    "answer_pattern: 'Final Answer:\\s*(\\w+)'\n"
)


@given(
    name=st.sampled_from(["task.yaml", "task.yaml", "prompt.md"]),
    content=any_bytes(TASK_YAML, TASK_YAML),
)
@examples(15)
def test_a_task_of_any_bytes(new_trial, name, content):
    with new_trial() as trial:
        trial.task("task", yaml=TASK_YAML, prompt="End with: Final Answer: LABEL")
        trial.write(f"task/{name}", content)
        trial.write("in.txt", input_lines(2))
        label(trial, serve(trial, labels()), "--input_file=in.txt", "--task=task")
        written(trial)


RECIPES = {
    "create_data": "input_file: none.txt\ntemperature: 0.5\nmax_samples: 5\nheld_out: 0.2\n",
    "train": "train_file: none.jsonl\nlora_rank: 8\nlearning_rate: 2.0e-4\nuse_lora: true\n",
    "evaluate": "test_file: none.txt\nmin_accuracy: 0.9\nquiet: true\nsplit: all\n",
    "report": "result_file: none.json\nplots_dir: plots\n",
}


@given(command=st.sampled_from(sorted(RECIPES)), data=st.data())
@examples(16)
def test_a_recipe_of_any_bytes(new_trial, command, data):
    content = data.draw(any_bytes(RECIPES[command]))
    with new_trial() as trial:
        trial.write("recipe.yaml", content)
        trial.run(command, "--config=recipe.yaml")


@given(data=st.data())
@examples(12)
def test_a_journal_of_any_bytes(new_trial, data):
    with new_trial() as trial:
        folder = trial.copy(trial.things.dataset.parent, "d", ours=True)
        journal = folder / "data.journal.jsonl"
        sound = journal.read_bytes()
        # In its first lines, where the places are dense in meaning; the rest stays.
        head = data.draw(nearly(sound[:900]))
        journal.write_bytes(head + sound[900:])
        (folder / "data.manifest.json").unlink()
        (folder / "data.jsonl").unlink()
        server = serve(trial, labels())
        own = ["--input_file=d/in.txt", "--output_file=d/data.jsonl", "--held_out=0.3", TASK]
        trial.run("create_data", *own, *server_flags(server.url)).works()
        assert read_rows(folder / "data.jsonl")


ANSWER = json.dumps(completion())


@given(body=any_bytes(ANSWER, ANSWER, ANSWER))
@examples(10)
def test_a_server_that_answers_any_bytes(new_trial, body):
    with new_trial() as trial:
        trial.write("in.txt", input_lines(2))
        good = Reply(body=completion())
        server = serve(trial, lambda number, _: good if number else Reply(body=body))
        own = ["--input_file=in.txt", TASK, "--output_file=out.jsonl", *server_flags(server.url)]
        running = trial.start("create_data", *own)
        if not running.ended.wait(20.0):
            running.signal(signal.SIGINT)
        trial.finish(running, codes=(130,), seconds=10.0)
        written(trial)


@given(kind=st.sampled_from(["txt", "jsonl", "json"]), content=any_bytes("de\nfr\n", ROWS))
@examples(8)
def test_predictions_of_any_bytes(new_trial, kind, content):
    with new_trial() as trial:
        trial.write("in.txt", input_lines(2))
        trial.write(f"said.{kind}", content)
        trial.run(
            "evaluate", "--test_file=in.txt", f"--predictions_file=said.{kind}", "--split=all",
            "--output_file=result.json", TASK,
        )  # fmt: skip
        written(trial)


@given(data=st.data())
@examples(6)
def test_a_result_of_any_bytes(new_trial, data):
    with new_trial() as trial:
        sound = trial.things.result.read_bytes()
        trial.write("result.json", data.draw(st.one_of(st.binary(max_size=60), nearly(sound))))
        trial.run("report", "--result_file=result.json", "--model_path=none")


@pytest.mark.slow
@given(part=st.sampled_from(PARTS), data=st.data())
@examples(2)
def test_a_checkpoint_of_any_bytes(new_trial, part, data):
    with new_trial() as trial:
        run = trial.copy(trial.things.adapter, "run", ours=True)
        (run / "training_manifest.json").unlink()
        path = run / "checkpoint-4" / part
        sound = path.read_bytes()
        path.write_bytes(data.draw(st.one_of(st.binary(max_size=60), nearly(sound))))
        trial.run("train", *train_flags(trial.things.student, trial.things.rows, "run"),
                  *CHECKPOINT_FLAGS)  # fmt: skip
