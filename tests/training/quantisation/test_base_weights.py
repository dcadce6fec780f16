"""Quantising a student while it is loaded: what, how much, and with how little memory."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from training.shapes import qwen3_30b_a3b
from training.tiny_student import build_student, save_student
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from prompt_distillation.checkpoints import merged_in_memory
from prompt_distillation.cli.train import main as train
from prompt_distillation.config.train_config import FourBitConfig, LoraSettings, TrainConfig
from prompt_distillation.errors import ConfigError, ModelError
from prompt_distillation.machine import GIB
from prompt_distillation.training.loading import load_student
from prompt_distillation.training.memory.estimate import Workload, estimate_memory
from prompt_distillation.training.quantisation.base_weights import (
    base_bytes,
    held_bytes,
    quantised_names,
)
from prompt_distillation.training.quantisation.four_bit import FourBitTensor

pytest.importorskip("bitsandbytes")

ROOT = Path(__file__).parents[3]


def load(folder, settings, **options):
    config = TrainConfig.of(model_name=str(folder), **options)
    if settings is not None:
        config = replace(config, four_bit=replace(settings, load_in_4bit=True))
    return load_student(config, {}, on_gpu=False)


def quantised(model):
    return {name for name, w in model.named_parameters() if isinstance(w, FourBitTensor)}


@pytest.mark.parametrize("experts", [True, False])
def test_linear_layers_and_experts_are_quantised_and_nothing_else(student, experts):
    settings = FourBitConfig(bnb_4bit_experts=experts)
    model = load(student, settings)
    layer = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    if experts:
        layer |= {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert quantised(model) == {f"model.layers.{i}.{name}" for i in (0, 1) for name in layer}
    full = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    for (name, weight), (_, before) in zip(
        model.named_parameters(), full.named_parameters(), strict=True
    ):
        assert weight.shape == before.shape
        if name not in quantised(model):
            assert torch.equal(weight, before), name


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_dense_students_too(kind, tmp_path):
    model = load(save_student(tmp_path / kind, kind), FourBitConfig())
    assert len(quantised(model)) == {"qwen3": 14, "gpt2": 8}[kind]
    model(torch.arange(8)[None]).logits.sum().backward()


@pytest.fixture(scope="module")
def published_gpt2(tmp_path_factory):
    """A tiny GPT-2 like the one on the hub: its files, its dropout, its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        made = importlib.import_module("random_model")
    config = GPT2Config(
        vocab_size=1100, n_embd=32, n_layer=2, n_head=2, bos_token_id=1099, eos_token_id=1099
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    made.name_as_in_2019(folder / "model.safetensors")
    made.gpt2_tokenizer(config.vocab_size, config.n_positions).save_pretrained(folder)
    return folder


def test_a_published_gpt2_is_read_as_its_files_name_the_weights(published_gpt2):
    assert AutoTokenizer.from_pretrained(published_gpt2).pad_token is None
    full, held = load(published_gpt2, None), load(published_gpt2, FourBitConfig())
    assert len(quantised(held)) == 8
    for (name, weight), other in zip(full.named_parameters(), held.parameters(), strict=True):
        error = float((other - weight).detach().abs().max())
        assert error < (0.02 if name in quantised(held) else 1e-9), name


def test_an_adapter_trained_on_a_four_bit_gpt2_merges_into_the_whole_one(
    published_gpt2, train_file, tmp_path
):
    train(
        [
            f"--train_file={train_file}", f"--model_name={published_gpt2}", "--load_in_4bit",
            f"--output_dir={tmp_path / 'run'}", "--max_steps=3", "--learning_rate=0.02",
            "--chat_template_path=recipes/plain-chat.jinja", "--report_to=none",
            "--held_out_answers=2", "--lora_rank=4",
        ]
    )  # fmt: skip
    whole, adapted = load(published_gpt2, None).eval(), load(published_gpt2, None)
    adapted = PeftModel.from_pretrained(adapted, str(tmp_path / "run")).eval()
    merged = merged_in_memory(load(published_gpt2, None), tmp_path / "run").eval()
    ids = torch.arange(20)[None]
    expected, before = adapted(ids).logits, whole(ids).logits
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - before).abs().max() > 0.01


def test_the_estimate_of_the_weights_is_what_they_take(student, tokenizer):
    model = build_student("qwen3_moe", len(tokenizer))
    for settings in (
        None,
        FourBitConfig(bnb_4bit_experts=False),
        FourBitConfig(use_bnb_nested_quant=True),
    ):
        counted = base_bytes(model, settings, dtype_bytes=4)
        # Code books (64 bytes, doubly quantised 1 KiB more) weigh here, and nothing in a real one.
        names = [] if settings is None else list(quantised_names(model, settings))
        books = sum(64 + 1028 * settings.use_bnb_nested_quant for _ in names)
        assert held_bytes(load(student, settings)) == pytest.approx(counted.total + books, rel=0.03)


LOADING = """
import sys, threading, time
from dataclasses import replace
from prompt_distillation.training.loading import load_student
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.training.quantisation.base_weights import held_bytes

def anonymous():  # what is allocated; pages of the checkpoint's file are the kernel's to keep
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

def load(name):
    config = TrainConfig.of(model_name=name, dtype="bfloat16", load_in_4bit=True)
    return load_student(config, {}, on_gpu=False)

load(sys.argv[2])  # what is imported
start = peak = anonymous()
done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
model = load(sys.argv[1])
done.set(); watcher.join()
print(peak - start, held_bytes(model))
"""


@pytest.mark.slow
def test_the_whole_model_is_never_in_memory_while_it_is_loaded(student, tmp_path):
    shape = {
        "vocab_size": 400, "hidden_size": 256, "moe_intermediate_size": 128, "num_experts": 16,
        "num_hidden_layers": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    folder = tmp_path / "student"
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape)).to(torch.bfloat16)
    whole = held_bytes(model)
    model.save_pretrained(folder, max_shard_size="20MB")
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(folder), str(student)],
        # Otherwise the C library keeps what was freed, and it counts as allocated.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, held = map(int, done.stdout.split())
    assert held < 0.3 * whole
    assert peak < 0.6 * whole


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_launchers_that_cut_the_weights_are_refused(student, monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=r"does not work with .*use DDP"):
        load(student, FourBitConfig())


def test_a_model_that_is_quantised_already_is_refused(tmp_path):
    folder = save_student(tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"already quantised \(fp8\)"):
        load(folder, FourBitConfig())


@pytest.mark.slow
def test_qwen3_30b_a3b_fits_24_gib_by_the_recipe_and_48_without_its_last_savings():
    recipe = yaml.safe_load((ROOT / "recipes" / "small-gpu-train.yaml").read_text())
    config = qwen3_30b_a3b()
    lora = LoraSettings(lora_rank=recipe["lora_rank"], lora_alpha=recipe["lora_alpha"])
    tokens = recipe["max_length"] * recipe["per_device_train_batch_size"]
    tight = Workload(
        base_dtype_bytes=2,
        lora=lora,
        tokens_per_pass=tokens,
        trained_tokens_per_pass=tokens // 16,
        mask_entries=tokens**2,
        passes=recipe["gradient_accumulation_steps"],
        gradient_checkpointing=recipe["gradient_checkpointing"],
        optimizer=recipe["optim"],
        on_gpu=True,
        four_bit=FourBitConfig(use_bnb_nested_quant=recipe["use_bnb_nested_quant"]),
    )
    roomy = replace(
        tight, four_bit=FourBitConfig(), optimizer="adamw_torch", passes=4,
        tokens_per_pass=4 * tokens, mask_entries=16 * tokens**2,
    )  # fmt: skip
    linear_alone = replace(roomy, four_bit=FourBitConfig(bnb_4bit_experts=False))
    totals = [estimate_memory(config, plan).total / GIB for plan in (tight, roomy, linear_alone)]
    assert totals[0] < 0.95 * 24
    assert totals[1] < 0.95 * 48
    assert totals[2] > 48  # what bitsandbytes' own layers reach is not enough
