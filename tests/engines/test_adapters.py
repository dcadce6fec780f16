"""What vLLM reads of an adapter is what PEFT writes, checked without a GPU."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.vllm_start import live_adapter, merge_to_temporary

EXPERTS, RANK = 4, 3

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)


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
    assert (live.shape.max_rank, live.shape.experts) == (8, frozenset())


@pytest.mark.parametrize(
    ("change", "max_rank"),
    [
        ({"rank_pattern": {"q_proj": 4}}, 8),
        ({"rank_pattern": {"q_proj": 33}, "alpha_pattern": {"q_proj": 5}}, 64),
        ({"r": 600}, None),
        ({"use_dora": True}, None),
        ({"target_parameters": ["mlp.experts.down_proj"]}, None),
    ],
)
def test_what_vllm_can_apply_is_served_and_the_rest_is_merged(
    tiny_models, tmp_path: Path, change, max_rank: int | None
) -> None:
    save_adapter(tiny_models.student, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    live = live_adapter(tmp_path, device="cuda")
    assert (live and live.shape.max_rank) == max_rank


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of vLLM's imports
@pytest.mark.parametrize("patterns", [{}, {"rank_pattern": {"q_proj": 12}}])
def test_vllms_loader_makes_of_an_adapter_what_peft_makes_of_it(
    tiny_models, tmp_path: Path, patterns
) -> None:
    """Ranks and alphas by module, and both parts of fused experts, through vLLM 0.32's own code."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.peft_helper import PEFTHelper

    model = save_adapter(
        tiny_models.student,
        tmp_path,
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        alpha_pattern={"q_proj": 20},
        **patterns,
    )
    live = live_adapter(tmp_path, device="cuda")
    assert live is not None
    assert live.shape.experts == {"gate_up_proj", "down_proj"}
    assert live.shape.max_rank == (16 if patterns else 8)

    helper = PEFTHelper.from_local_dir(str(live.path), max_position_embeddings=None)
    loaded = LoRAModel.from_local_checkpoint(
        str(live.path), {"q_proj", "experts"}, helper, device="cpu", dtype=torch.float32
    )
    for weights in loaded.loras.values():
        weights.optimize()  # as the manager does: the scaling goes into B

    layer = model.base_model.model.model.layers[0]
    attention = loaded.get_lora("model.layers.0.self_attn.q_proj")
    torch.testing.assert_close(
        attention.lora_b @ attention.lora_a, layer.self_attn.q_proj.get_delta_weight("default")
    )

    manager = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(architectures=["Qwen3MoeForCausalLM"])),
        _get_lora_layer_weights=lambda lora, name: lora.get_lora(name),
    )
    ours = SimpleNamespace(local_num_experts=EXPERTS, global_num_experts=EXPERTS, ep_rank=0)
    name = "model.layers.0.mlp.experts"
    LoRAModelManager._convert_3d_to_2d_moe_lora(manager, loaded, ours, name)
    experts = loaded.get_lora(name)
    gate, down, up = (b @ a for a, b in zip(experts.lora_a, experts.lora_b, strict=True))
    outer = layer.mlp.experts
    assert outer.parameter_name == "down_proj"
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(down, outer.get_delta_weight("default"), **close)
    torch.testing.assert_close(
        torch.cat([gate, up], dim=1), outer.base_layer.get_delta_weight("default"), **close
    )


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
    merge_to_temporary(options).cleanup()
    assert asked == [("v2", True), ("v2", True)]
