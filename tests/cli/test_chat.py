"""`scripts/chat.py` as a user runs it, with questions through a pipe."""

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from prompt_distillation.cli.chat import Chat, Speaker
from prompt_distillation.config import TokenPriceConfig
from prompt_distillation.engines import Completion, Request, Sampling
from prompt_distillation.engines.event_loop import BackgroundLoop
from prompt_distillation.tasks import load_task

ROOT = Path(__file__).parents[2]
PRICES = TokenPriceConfig(price_per_million_input_tokens=1, price_per_million_output_tokens=10)
HOSTILE = "\x1b]0;owned\x07 [bold]red[/bold] \u202e"


def chat(
    *arguments: str | Path, lines: bytes | str = b"", folder: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chat.py", *map(str, arguments)],
        cwd=folder, input=lines if isinstance(lines, bytes) else lines.encode(),
        capture_output=True, timeout=500, check=False,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class Typist:
    """An engine that writes a text in two pieces."""

    name, concurrency = "typist", 1

    async def complete(self, request: Request) -> Completion:
        assert request.on_text is not None
        request.on_text("thinking about ")
        await asyncio.sleep(0.3)
        text = f"thinking</think>{HOSTILE}\nand a second line"
        request.on_text(text)
        return Completion(
            text=text, finish_reason="stop", prompt_tokens=1000, completion_tokens=100, seconds=0.3
        )

    async def aclose(self) -> None:
        pass


def test_on_a_terminal_answers_grow_and_cannot_change_it(tmp_path: Path) -> None:
    speakers = [
        Speaker(
            name=name, engine=Typist(), sampling=Sampling(), prefill="", thinking=True,
            with_prompt=name == "teacher", prices=PRICES,
        )
        for name in ("teacher", "student")
    ]  # fmt: skip
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=20)
    with BackgroundLoop() as loop:
        chat = Chat(
            task=load_task(ROOT / "tasks" / "language"), speakers=speakers, loop=loop,
            console=console, currency="USD",
        )  # fmt: skip
        replies = chat.ask("where?")

    shown = screen.getvalue()
    assert "thinking about" in shown
    assert "and a second line" in shown
    assert "1000 tokens in, 100 out, 0.30 s, 0.0020 USD" in shown
    assert "\x1b]0;" not in shown
    assert [reply.answer for reply in replies] == [f"{HOSTILE}\nand a second line"] * 2


@pytest.fixture
def models() -> list[str]:
    """The example pair, before distillation."""
    return [
        "--teacher_model", str(ROOT / "example-models" / "teacher"),
        "--student_path", str(ROOT / "example-models" / "student"),
        "--teacher_max_tokens", "200", "--student_max_tokens", "30",
        "--teacher_engine", "transformers", "--student_engine", "transformers",
    ]  # fmt: skip


def test_questions_commands_and_the_end(models: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("mine\n")
    lines = (
        b"Wo ist der Bahnhof?\n\n/regenerate\n/prompt off\n/model teacher\n\xff \x1b[31mred?\n"
        b"/nonsense\n/save mine.jsonl\n/save all.jsonl\n/save all.jsonl\n/quit\nnever asked\n"
    )

    done = chat(*models, lines=lines, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[teacher, with prompt]") == 2
    assert done.stdout.count("[teacher, without prompt]") == 1
    assert done.stdout.count("[student, without prompt]") == 2
    assert "Final Answer: de" in done.stdout
    assert "Unknown: /nonsense" in done.stdout
    assert "\x1b" not in done.stdout
    assert (tmp_path / "mine.jsonl").read_text() == "mine\n"
    saved = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["model"] for row in saved] == ["teacher", "student"] * 2 + ["teacher"]
    assert saved[0]["prompt_tokens"] > 1000 > saved[1]["prompt_tokens"] > 0
    assert all(row["seconds"] > 0 for row in saved)


def test_one_question_with_its_cost(models: list[str]) -> None:
    prices = [
        part
        for model in ("teacher", "student")
        for what in ("input", "output")
        for part in (f"--{model}_price_per_million_{what}_tokens", "1")
    ]

    done = chat(*models, "--question", "Guten Tag", *prices)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" USD)") == 2
    assert "tokens in," in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student_path", "none", "--teacher_model", "none"], "are both none"),
        (["--student_path", "./no/such"], "no model at"),
        (["--teacher_engine", "server"], "--teacher_engine server needs --teacher_server_url"),
        (["--task", "no/task"], "no task at"),
    ],
)
def test_bad_options_end_in_one_line(arguments: list[str], message: str) -> None:
    done = chat(*arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
