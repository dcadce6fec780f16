import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prompt_distillation.checkpoints import (
    DEFAULT_BASE_MODEL,
    ResolvedModel,
    merge_adapter,
    merged_in_memory,
    resolve_model,
)
from prompt_distillation.errors import ModelError

TOKENS = torch.arange(5, 45).reshape(2, 20)


def load(path: Path | str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(TOKENS).logits


@pytest.fixture(scope="module")
def adapter(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on attention and fused experts, none of its matrices zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    model = get_peft_model(load(tiny_models.student), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def test_an_adapter_brings_the_base_it_records(tiny_models, adapter: Path) -> None:
    assert resolve_model(str(adapter)) == ResolvedModel(
        base=str(tiny_models.student), adapter=adapter
    )
    assert resolve_model(str(adapter), str(tiny_models.student)).adapter == adapter


def test_an_adapter_of_another_base_is_refused(tiny_models, adapter: Path) -> None:
    with pytest.raises(ModelError, match=r"was trained on .*student, not on .*teacher"):
        resolve_model(str(adapter), str(tiny_models.teacher))


def test_a_copy_of_the_base_is_the_base(tiny_models, adapter: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_models.student, tmp_path / "student")
    assert resolve_model(str(adapter), str(copied)).base == str(copied)


def test_a_folder_with_a_full_model_needs_no_base(tiny_models) -> None:
    resolved = resolve_model(str(tiny_models.teacher), "some/base")
    assert resolved == ResolvedModel(base=str(tiny_models.teacher))


def test_none_is_the_base_alone(tiny_models) -> None:
    assert resolve_model("none", str(tiny_models.teacher)).base == str(tiny_models.teacher)
    assert resolve_model("none").base == DEFAULT_BASE_MODEL


def test_a_hub_name_passes_through() -> None:
    assert resolve_model("Qwen/Qwen3-4B").base == "Qwen/Qwen3-4B"


@pytest.mark.parametrize("path", ["./nowhere", "models/deep/nowhere", "/nowhere", "nowhere/"])
def test_a_path_without_a_model_is_refused(path: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_model(path)


def test_a_name_in_a_folder_that_is_here_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such folder in models/.* the hub's model"):
        resolve_model("models/nope")
    with pytest.raises(ModelError, match=r"no such folder in models/"):
        resolve_model("none", "models/nope")
    assert resolve_model("Qwen/Qwen3-4B").base == "Qwen/Qwen3-4B"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither config.json nor adapter_config.json"):
        resolve_model(str(tmp_path))


def test_missing_weights_are_told(tiny_models, adapter: Path, tmp_path: Path) -> None:
    hollow = shutil.copytree(tiny_models.student, tmp_path / "hollow")
    (hollow / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="without any weights"):
        resolve_model(str(hollow))
    half = shutil.copytree(adapter, tmp_path / "half")
    (half / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter_model file"):
        resolve_model(str(half))


def test_a_torn_adapter_config_is_told(adapter: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(adapter, tmp_path / "torn")
    (torn / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(ModelError, match="cannot read the adapter"):
        resolve_model(str(torn))


def test_merging_changes_the_experts_and_nothing_else_than_the_adapter_did(
    tiny_models, adapter: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    base = load(tiny_models.student)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(load(tiny_models.student), adapter))
    assert (expected - before).abs().max() > 0.1

    in_memory = logits(merged_in_memory(load(tiny_models.student), adapter))
    torch.testing.assert_close(in_memory, expected, rtol=1e-4, atol=1e-4)

    folder = merge_adapter(str(tiny_models.student), adapter, tmp_path / "merged")
    merged = load(folder)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    down = "model.layers.0.mlp.experts.down_proj"
    assert not torch.equal(merged.get_parameter(down), base.get_parameter(down))
    router = "model.layers.0.mlp.gate.weight"
    assert torch.equal(merged.get_parameter(router), base.get_parameter(router))
    assert resolve_model(str(folder)) == ResolvedModel(base=str(folder))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert list(folder.glob("*.safetensors"))


def test_an_adapter_that_does_not_fit_is_refused(tiny_models, adapter: Path, tmp_path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    config["target_modules"] = ["no_such_module"]
    config["target_parameters"] = None
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit"):
        merge_adapter(str(tiny_models.student), other, tmp_path / "merged")
