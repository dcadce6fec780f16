"""What many cases start from: tiny models, a dataset, an adapter, a result; each built once."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from hostile_cases.launching import ENVIRONMENT, ROOT, Launcher
from hostile_cases.scripted_server import MODEL, ScriptedServer, labels
from hostile_cases.trial import Trial

INPUTS = 40
GERMAN = "de"

_BUILD_MODELS = """
import sys
from pathlib import Path
from conftest import STUDENT_TEMPLATE, TEACHER_TEMPLATE, save_tiny_model
folder = Path(sys.argv[1])
save_tiny_model(folder / "teacher", template=TEACHER_TEMPLATE, seed=0)
save_tiny_model(folder / "student", template=STUDENT_TEMPLATE, seed=1)
"""

_SPOIL_WEIGHTS = """
import sys
from safetensors.torch import load_file, save_file
path, value = sys.argv[1], float(sys.argv[2])
weights = load_file(path)
for name in [name for name in weights if name.endswith("q_proj.weight")]:
    weights[name][0, 0] = value
save_file(weights, path, metadata={"format": "pt"})
"""


def train_flags(student: Path, train_file: str | Path, output_dir: str | Path) -> list[str]:
    """The flags of a training of a few steps."""
    return [
        f"--model_name={student}", f"--train_file={train_file}", f"--output_dir={output_dir}",
        "--report_to=none", "--gradient_checkpointing=false", "--max_length=512",
        "--lora_rank=2", "--per_device_train_batch_size=2", "--gradient_accumulation_steps=1",
        "--held_out_answers=0",
    ]  # fmt: skip


def server_flags(url: str) -> list[str]:
    """The flags that label through a scripted server, with requests that do not wait for long."""
    return [
        "--engine=server", f"--server_url={url}", f"--model_name={MODEL}",
        "--request_timeout_seconds=5", "--max_retries=0",
    ]  # fmt: skip


def chat_row(text: str, answer: str = GERMAN) -> str:
    """A line of a dataset."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def input_lines(count: int = INPUTS) -> str:
    """A text file of German sentences, no two alike."""
    return "".join(f"Das ist der Satz Nummer {number}.\n" for number in range(count))


class Things:
    """Builds what is asked for the first time, and hands out the same again.

    Args:
        folder: where it stands; cases copy from there.
        launcher: runs the commands.
    """

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self._folder = folder
        self._launcher = launcher
        self._lock = threading.RLock()

    def _once(self, name: str, build: Callable[[Path], None]) -> Path:
        path = self._folder / name
        with self._lock:
            if not path.exists():
                building = path.with_name(f"{path.name}.building")
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir(parents=True)
                build(building)
                building.rename(path)
        return path

    def _python(self, code: str, *arguments: str) -> None:
        environment = os.environ | ENVIRONMENT
        environment["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
        subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)

    @property
    def student(self) -> Path:
        """A random student of 100 kB: one token a byte, Qwen's marks beside."""
        return self._models / "student"

    @property
    def teacher(self) -> Path:
        """The same shape with a template that opens the thinking."""
        return self._models / "teacher"

    @property
    def _models(self) -> Path:
        return self._once("models", lambda folder: self._python(_BUILD_MODELS, str(folder)))

    def spoilt_student(self, value: str) -> Path:
        """The student with a weight that is ``nan``, ``inf`` or the like."""

        def build(folder: Path) -> None:
            shutil.copytree(self.student, folder, dirs_exist_ok=True)
            self._python(_SPOIL_WEIGHTS, str(folder / "model.safetensors"), value)

        return self._once(f"student-{value}", build)

    @property
    def rows(self) -> Path:
        """A training file of 12 rows."""

        def build(folder: Path) -> None:
            rows = map(chat_row, input_lines(12).splitlines())
            (folder / "rows.jsonl").write_text("".join(rows))

        return self._once("rows", build) / "rows.jsonl"

    @property
    def dataset(self) -> Path:
        """The dataset ``data.jsonl`` in a folder with its other files and its ``in.txt``."""

        def build(folder: Path) -> None:
            (folder / "in.txt").write_text(input_lines())
            trial = Trial(folder=folder, things=self, launcher=self._launcher)
            server = ScriptedServer(labels())
            flags = ["--input_file=in.txt", "--output_file=data.jsonl", "--held_out=0.3"]
            task = f"--task={ROOT / 'tasks' / 'language'}"
            trial.run("create_data", *flags, task, *server_flags(server.url)).works()
            server.close()

        return self._once("dataset", build) / "data.jsonl"

    @property
    def result(self) -> Path:
        """A result of evaluate.py, of predictions from a file."""

        def build(folder: Path) -> None:
            (folder / "in.txt").write_text(input_lines(6))
            (folder / "truth.txt").write_text(f"{GERMAN}\n" * 6)
            (folder / "said.txt").write_text(f"{GERMAN}\n" * 5 + "fr\n")
            trial = Trial(folder=folder, things=self, launcher=self._launcher)
            trial.run(
                "evaluate", "--test_file=in.txt", "--ground_truth_file=truth.txt", "--split=all",
                "--predictions_file=said.txt",
                "--output_file=result.json", f"--task={ROOT / 'tasks' / 'language'}",
            ).works()  # fmt: skip

        return self._once("result", build) / "result.json"

    @property
    def adapter(self) -> Path:
        """A finished training run of four steps, a checkpoint at each."""

        def build(folder: Path) -> None:
            trial = Trial(folder=folder, things=self, launcher=self._launcher)
            flags = train_flags(self.student, self.rows, "run")
            trial.run("train", *flags, *CHECKPOINT_FLAGS).works()

        return self._once("adapter", build) / "run"


CHECKPOINT_FLAGS = (
    "--max_steps=4", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=4",
    "--logging_steps=1",
)  # fmt: skip
