"""`create_data_h100x8.sh`, on a machine with or without GPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# create_data.py with a scripted teacher in the place of a real one; everything else is real.
SCRIPTED = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from labelling.scripted import ScriptedEngine, answer
from prompt_distillation.cli import create_data
from prompt_distillation.cli.running import run_command
from prompt_distillation.labelling import pipeline

def reply(request):
    if os.environ.get("BREAK_SHARD") == os.environ.get("OWN_SHARD"):
        raise RuntimeError("the teacher broke")
    return answer("fr")

arguments = sys.argv[2:]
if "--shard_index" in arguments:
    os.environ["OWN_SHARD"] = arguments[arguments.index("--shard_index") + 1]
delay = float(os.environ.get("DELAY", "0"))
pipeline._teacher_of = lambda _: ScriptedEngine(reply, delay_seconds=delay).open
print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"))
sys.exit(run_command(create_data.main, arguments, goes_on=True))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    python = tmp_path / "python"
    python.write_text(SCRIPTED)
    python.chmod(0o755)
    lines = [f"sentence number {number}\n" for number in range(80)]
    (tmp_path / "in.txt").write_text("".join(lines))
    return tmp_path


def start(folder: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHON": str(folder / "python"), **environment}
    return subprocess.Popen(
        ["bash", ROOT / "create_data_h100x8.sh", folder / "in.txt", folder / "out.jsonl",
         "--model_name", "scripted", *flags],
        cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, out, err


def texts(folder: Path) -> list[str]:
    lines = (folder / "out.records.jsonl").read_bytes().splitlines()
    return [json.loads(line)["text"] for line in lines]


def journal_lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("out.journal.*.jsonl"))


def test_two_instances_label_and_merge_in_input_order(folder):
    code, out, err = finish(start(folder))
    assert code == 0, err
    assert texts(folder) == [f"sentence number {number}" for number in range(80)]
    assert "inputs      80" in out
    assert "labelled 80/80 (100.0 %)" in err
    # Nothing is left to do, and that is said.
    code, out, err = finish(start(folder))
    assert (code, "finished already" in err) == (0, True)


def test_gpus_are_dealt_out_and_flags_passed_on(folder):
    code, _, err = finish(start(folder, "--held_out", "0", CUDA_VISIBLE_DEVICES="1,2,5,7"))
    assert code == 0, err
    logs = [(folder / f"out.instance-{index}.log").read_text() for index in range(2)]
    assert [log.splitlines()[0] for log in logs] == ["devices 1,2", "devices 5,7"]
    manifest = json.loads((folder / "out.manifest.json").read_text())
    assert manifest["config"]["tensor_parallel_size"] == 2
    assert manifest["held_out"]["share"] == 0


def test_more_gpus_than_there_are_is_one_line(folder):
    code, _, err = finish(start(folder, CUDA_VISIBLE_DEVICES="0,1", TENSOR_PARALLEL_SIZE="2"))
    assert (code, err.count("\n")) == (2, 1)
    assert "do not fit on 2" in err


def test_the_worst_exit_code_is_the_script_s(folder):
    code, _, err = finish(start(folder, BREAK_SHARD="1"))
    assert code == 1
    assert "instance 1 ended with code 1" in err
    assert "the teacher broke" in err
    assert not (folder / "out.jsonl").exists()
    # The other instance's work was not in vain.
    code, _, err = finish(start(folder))
    assert code == 0, err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_script_leaves_no_process_and_goes_on(folder, how):
    process = start(folder, DELAY="0.02")
    while journal_lines(folder) < 10:
        time.sleep(0.02)
    process.send_signal(how)
    code, _, err = finish(process)
    assert code == 130, err
    assert "run the same command again" in err
    assert not _processes_of(folder)
    kept = journal_lines(folder)
    code, _, err = finish(start(folder))
    assert code == 0, err
    assert journal_lines(folder) == 82  # a line of settings in each journal
    assert kept >= 10


def _processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue  # it ended meanwhile
        if str(folder).encode() in command:
            found.append(command.decode())
    return found


@pytest.mark.vllm
@pytest.mark.slow
def test_two_real_engines_share_the_cores(folder, tiny_models):
    task = folder / "task"
    task.mkdir()
    (task / "task.yaml").write_text((ROOT / "tasks/language/task.yaml").read_text())
    (task / "prompt.md").write_text("Name the language, and end with `Final Answer: xx`.\n")
    flags = ["--model_name", str(tiny_models.teacher), "--task", str(task), "--engine", "vllm"]
    flags += ["--max_tokens", "4", "--max_retries", "0"]
    code, out, err = finish(
        start(folder, *flags, PYTHON=sys.executable, VLLM_CPU_KVCACHE_SPACE="1")
    )
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    assert code == 2, err + logs
    assert "all 80 inputs were rejected" in err  # the model is random
    assert texts(folder) == [f"sentence number {number}" for number in range(80)]
    assert "most inputs got no label" in out
