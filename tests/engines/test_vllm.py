"""What only vLLM does: several processes, merged adapters, and leaving nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import torch
from engines.asking import LONG_PROMPT, ask, tiny_engine

from prompt_distillation.engines import stream
from prompt_distillation.machine import share_cores

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

REQUESTS = [ask(f"text {number}", system=LONG_PROMPT, max_tokens=16) for number in range(16)]


@pytest.fixture(scope="module")
def adapter(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_models.student), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


async def texts(model: Path, kind: str, **options: object) -> list[str]:
    async with tiny_engine(model, kind, **options) as engine:
        done = {key: result async for key, result in stream(engine, enumerate(REQUESTS))}
    return [done[key].text for key in range(len(REQUESTS))]


def vllm_processes() -> set[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return {child for child in children if child.name().startswith("VLLM")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core for each share is wanted")
async def test_two_shares_of_a_merged_adapter_write_what_transformers_writes(
    tiny_models, adapter: Path
) -> None:
    # The session's own engine may be running.
    before = vllm_processes()
    plain = await texts(tiny_models.student, "transformers")
    adapted = await texts(tiny_models.student, "transformers", adapter=adapter)
    shared = await texts(
        tiny_models.student, "vllm", adapter=adapter, tensor_parallel_size=2, dtype="float32"
    )
    assert adapted != plain
    # Kernels round differently, so a near tie goes the other way now and then.
    same = [one == other for one, other in zip(adapted, shared, strict=True)]
    assert sum(same) >= 0.75 * len(same)
    assert vllm_processes() <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tiny_models, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio
            from prompt_distillation.engines import *

            async def main():
                options = EngineOptions(model={str(tiny_models.student)!r})
                async with open_engine("vllm", options) as engine:
                    print("open", flush=True)
                    sampling = Sampling(max_tokens=3000, temperature=1.0)
                    turn = {{"role": "user", "content": "hello"}}
                    while True:
                        await engine.complete(Request(messages=(turn,), sampling=sampling))

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        if number == signal.SIGINT:
            # As a terminal does: to the whole group.
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in error) is (number == signal.SIGINT)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_cores_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 8})
    assert share_cores(2) == "4,5|6,7"
    assert share_cores(5) == "4|5|6|7|8"
