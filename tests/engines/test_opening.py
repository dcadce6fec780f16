import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from engines.asking import tiny_engine

from prompt_distillation.checkpoints import DEFAULT_BASE_MODEL
from prompt_distillation.config import EngineConfig, ModelConfig
from prompt_distillation.engines import engine_options, resolve_engine_kind
from prompt_distillation.errors import ConfigError, EngineError, ModelError
from prompt_distillation.machine import choose_device


def test_auto_is_vllm_where_it_is_installed() -> None:
    installed = importlib.util.find_spec("vllm") is not None
    assert resolve_engine_kind("auto") == ("vllm" if installed else "transformers")
    assert resolve_engine_kind("server") == "server"


def test_vllm_by_name_needs_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_engine_kind("auto") == "transformers"
    with pytest.raises(EngineError, match=r"not installed here; run `pip install"):
        resolve_engine_kind("vllm")


def test_a_server_renders_with_its_own_template() -> None:
    model = ModelConfig(model_name="m", chat_template_path=Path("recipes/plain-chat.jinja"))
    server = EngineConfig(engine="server", server_url="http://localhost:1/v1")
    with pytest.raises(ConfigError, match="--chat_template_path does nothing with --engine server"):
        engine_options(model, server)
    here = engine_options(replace(model, model_name="owner/m"), EngineConfig())
    assert here.chat_template is not None
    assert "Assistant:" in here.chat_template


async def open_and_close(model: Path, kind: str = "transformers", **options: object) -> None:
    async with tiny_engine(model, kind, **options):
        pass


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
async def test_a_missing_model_is_told_at_once(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        await open_and_close(tmp_path / "nowhere", kind)
    with pytest.raises(ModelError, match=r"neither config.json nor adapter_config.json"):
        await open_and_close(tmp_path, kind)


async def test_a_hub_model_that_cannot_be_had_is_told() -> None:
    with pytest.raises(ModelError, match="cannot load the model no-such-owner/no-such-model"):
        await open_and_close(Path("no-such-owner/no-such-model"))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return request.param


@pytest.mark.parametrize("gpus", [0], indirect=True)
async def test_a_gpu_that_is_not_there_is_told(gpus: int, tiny_models) -> None:
    with pytest.raises(EngineError, match="a GPU was asked for, but torch sees none"):
        await open_and_close(tiny_models.student, device="cuda")
    with pytest.raises(EngineError, match="--tensor_parallel_size is 999, but there is no GPU"):
        await open_and_close(tiny_models.student, tensor_parallel_size=999)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_more_shares_than_gpus_are_refused(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto", 2) == "cuda"
    with pytest.raises(EngineError, match=r"this machine shows 2 GPU\(s\); pass at most 2"):
        choose_device("auto", 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(EngineError, match="CUDA_VISIBLE_DEVICES='0,1'"):
        choose_device("auto", 4)
    assert choose_device("cpu") == "cpu"


def test_an_adapter_is_loaded_on_its_base(tiny_models, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"r": 8, "base_model_name_or_path": str(tiny_models.student)})
    )
    (tmp_path / "adapter_model.safetensors").touch()
    model = ModelConfig(model_name=str(tmp_path), revision="v2", trust_remote_code=True)
    options = engine_options(model, EngineConfig(max_model_len=512), seed=7)
    assert (options.model, options.adapter) == (str(tiny_models.student), tmp_path)
    assert (options.revision, options.trust_remote_code) == ("v2", True)
    assert (options.max_model_len, options.seed) == (512, 7)


@pytest.mark.parametrize(
    ("model_name", "base_model", "asked"),
    [("none", "qwen", "qwen"), ("qwen", None, "qwen"), ("none", None, DEFAULT_BASE_MODEL)],
)
def test_a_server_is_asked_for_the_name_of_the_model(
    model_name: str, base_model: str | None, asked: str
) -> None:
    server = EngineConfig(engine="server", server_url="http://localhost:8000/v1")
    model = ModelConfig(model_name=model_name, base_model=base_model)
    assert engine_options(model, server).model == asked
