"""`prompt-distillation serve`: what it starts, and that the real client gets answers."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from engines.vllm_server import free_port, wait_until_up
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_distillation.data.vllm_flags import serve_line
from prompt_distillation.engines import EngineOptions, vllm_serve
from prompt_distillation.engines.vllm_serve import Serving, serve_command
from prompt_distillation.errors import OutputExistsError

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "prompt_distillation", "serve"]


@pytest.fixture(scope="module")
def adapter(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter on attention and experts, with its tokenizer, as training leaves it."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=16, lora_alpha=16, target_modules=["q_proj"], rank_pattern={"q_proj": 20},
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_models.student), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_models.student).save_pretrained(folder)
    return folder


def options(base: Path, adapter: Path) -> EngineOptions:
    return EngineOptions(model=str(base), adapter=adapter)


def test_on_a_gpu_the_adapter_is_put_on_its_base(tiny_models, adapter, monkeypatch) -> None:
    monkeypatch.setattr(vllm_serve, "choose_device", lambda *_: "cuda")
    mine = Serving(name="mine", host="127.0.0.1", port=8000, fp8=True)

    with serve_command(options(tiny_models.student, adapter), mine) as (command, how):
        shown = shlex.join(command)

    assert "on top" in how
    assert f"--model {tiny_models.student}" in shown
    assert "--quantization fp8" in shown
    assert "--enforce-eager" not in shown
    # The same flags as on the model card.
    config = json.loads((adapter / "adapter_config.json").read_text())
    card = serve_line("base", config, name="mine")
    for flags in (shown, card):
        assert "--max-lora-rank 32" in flags
        assert "--enable-mixed-moe-lora-format" in flags
        assert '"is_3d_lora_weight": true' in flags
        assert "--tokenizer" in flags


def test_a_merged_folder_stays_and_is_not_replaced(tiny_models, adapter, tmp_path: Path) -> None:
    mine = Serving(name="mine", host="127.0.0.1", port=8000, merged_dir=tmp_path / "merged")

    with serve_command(options(tiny_models.student, adapter), mine) as (command, _):
        assert str(tmp_path / "merged") in command
    assert (tmp_path / "merged" / "config.json").is_file()
    with (
        pytest.raises(OutputExistsError, match="is not empty"),
        serve_command(options(tiny_models.student, adapter), mine),
    ):
        pass


@pytest.mark.slow
def test_the_openai_client_gets_the_answers_of_the_student(adapter, tmp_path: Path) -> None:
    port = free_port()
    command = [*PROGRAM, str(adapter), "--port", str(port), "--max-num-seqs", "4"]
    with (
        # Short: the path of a Unix socket in it has at most 107 characters.
        tempfile.TemporaryDirectory(dir="/tmp") as temporary,
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "TMPDIR": temporary}
        ) as process,
    ):
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health", process)
            for _ in range(100):  # the command looks for itself, now and then
                if "Ask it" in (tmp_path / "log").read_text():
                    break
                time.sleep(0.2)
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
            (model,) = client.models.list().data
            answer = client.chat.completions.create(
                model="mine", messages=[{"role": "user", "content": "hello"}], temperature=0,
                max_tokens=8,
            )  # fmt: skip
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        # The temporary merged model is gone.
        assert not list(Path(temporary).glob("prompt-distillation-merged-*"))
    shown = (tmp_path / "log").read_text()
    assert model.id == "mine"
    assert answer.usage.completion_tokens > 0
    assert f"curl -s http://127.0.0.1:{port}/v1/chat/completions" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./no/such"], "no model at"),
        (["--port", "0"], "--port is 0"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_bad_options_end_in_one_line(arguments: list[str], message: str, tiny_models) -> None:
    model = [] if arguments[0] == "./no/such" else [str(tiny_models.student)]
    done = subprocess.run(
        [*PROGRAM, *model, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
