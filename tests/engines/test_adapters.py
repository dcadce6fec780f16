"""What vLLM reads of an adapter is what PEFT writes, checked without a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.adapters import live_adapter, merge_to_temporary

EXPERTS, RANK = 4, 3


def save_adapter(base: Path, folder: Path, **options: object):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=6, target_modules=["q_proj"], **options)  # type: ignore[arg-type]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


def test_on_a_cpu_every_adapter_is_merged(tiny_models, tmp_path: Path) -> None:
    save_adapter(tiny_models.student, tmp_path)
    assert live_adapter(tmp_path, device="cpu") is None


def test_on_a_gpu_an_adapter_is_served_with_the_next_rank(tiny_models, tmp_path: Path) -> None:
    save_adapter(tiny_models.student, tmp_path)
    live = live_adapter(tmp_path, device="cuda")
    assert live is not None
    assert (live.max_rank, live.on_experts) == (8, False)


@pytest.mark.parametrize("change", [{"rank_pattern": {"q_proj": 4}}, {"r": 600}])
def test_what_vllm_would_scale_wrongly_is_merged(tiny_models, tmp_path: Path, change) -> None:
    save_adapter(tiny_models.student, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert live_adapter(tmp_path, device="cuda") is None


def test_fused_experts_lie_on_disk_as_vllm_unpacks_them(tiny_models, tmp_path: Path) -> None:
    """`LoRAModelManager._convert_3d_to_2d_moe_lora` of vLLM 0.32 against PEFT's own update."""
    model = save_adapter(
        tiny_models.student,
        tmp_path,
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    live = live_adapter(tmp_path, device="cuda")
    assert live is not None
    assert live.on_experts
    weights = load_file(tmp_path / "adapter_model.safetensors")
    scaling = 6 / RANK
    outer = model.base_model.model.model.layers[0].mlp.experts
    for name, wrapper in [("", outer), (".base_layer", outer.base_layer)]:
        stem = f"base_model.model.model.layers.0.mlp.experts{name}"
        down = weights[f"{stem}.lora_A.weight"]
        up = weights[f"{stem}.lora_B.weight"]
        # As vLLM does: (experts, rank, in) and (experts, out, rank).
        lora_a = down.reshape(EXPERTS, -1, down.shape[-1])
        lora_b = up.reshape(up.shape[0], -1, EXPERTS).permute(2, 0, 1)
        torch.testing.assert_close(
            scaling * lora_b @ lora_a, wrapper.get_delta_weight("default"), rtol=1e-4, atol=1e-4
        )
    assert outer.parameter_name == "down_proj"
    assert outer.base_layer.parameter_name == "gate_up_proj"


def test_merging_reads_the_base_as_it_was_asked_for(
    tiny_models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_adapter(tiny_models.student, tmp_path)
    asked = []
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        load = kind.from_pretrained

        def noted(name: str, *, load: Any = load, **options: Any) -> Any:
            asked.append((options.get("revision"), options.get("trust_remote_code")))
            return load(name, **options)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    options = EngineOptions(
        model=str(tiny_models.student), adapter=tmp_path, revision="v2", trust_remote_code=True
    )
    merge_to_temporary(options).folder.cleanup()
    assert asked == [("v2", True), ("v2", True)]
