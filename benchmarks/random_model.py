"""A checkpoint of a known shape with random weights: what a model would cost, without its files.

    python benchmarks/random_model.py models/random-30b --shape qwen3-30b-a3b           # 57 GiB
    python benchmarks/random_model.py models/random-30b --shape qwen3-30b-a3b --layers 8
    python benchmarks/engine_throughput.py --model models/random-30b --max_tokens 512
    python benchmarks/labelling_throughput.py --model_name models/random-30b --max_tokens 512
    python benchmarks/random_model.py models/shape-30b --config_only                    # 0.5 MiB
    python benchmarks/training_throughput.py --model models/shape-30b --rows 128
    python benchmarks/random_model.py models/random-gpt2-large --shape gpt2-large        # 3.0 GiB

Every command takes the folder as it takes any model. Shapes and vocabulary sizes are the published
ones; the tokenizer is the example student's, whose 5,120 tokens the model reads, while it writes
any of its own (GPT-2: see `gpt2_tokenizer`). With --layers, the rest of the shape stays and the
model is shallower: time and memory per layer are the true ones, and the embeddings weigh more. A
model of random weights writes until --max_tokens. With --config_only the file of weights is empty,
and the benchmarks draw them where they compute.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

from prompt_distillation.engines import vllm_start
from prompt_distillation.engines.base import EngineOptions

EXAMPLE = Path(__file__).parents[1] / "example-models"

WEIGHTS = "model.safetensors"

SHAPES: dict[str, PreTrainedConfig] = {
    # https://huggingface.co/Qwen/Qwen3-30B-A3B-Instruct-2507/blob/main/config.json
    "qwen3-30b-a3b": Qwen3MoeConfig(
        vocab_size=151_936, hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=128, num_experts=128,
        num_experts_per_tok=8, norm_topk_prob=True, max_position_embeddings=262_144,
    ),
    # https://huggingface.co/Qwen/Qwen3-4B-Instruct-2507/blob/main/config.json
    "qwen3-4b": Qwen3Config(
        vocab_size=151_936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=262_144,
    ),
    # https://huggingface.co/openai-community/gpt2-large/blob/main/config.json
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    # https://huggingface.co/openai-community/gpt2/blob/main/config.json
    "gpt2": GPT2Config(n_embd=768, n_layer=12, n_head=12),
}  # fmt: skip


def main() -> None:
    """Build the model and save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; must not exist")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--thinking", action="store_true", help="the thinking model's template")
    parser.add_argument("--config_only", action="store_true", help="no weights in the folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"{options.folder} exists; name a folder that does not, or remove it first")

    config = SHAPES[options.shape]
    config.num_hidden_layers = options.layers or config.num_hidden_layers
    is_gpt2 = isinstance(config, GPT2Config)
    tokenizer = (
        gpt2_tokenizer(config.vocab_size, config.n_positions)
        if is_gpt2
        else AutoTokenizer.from_pretrained(EXAMPLE / ("teacher" if options.thinking else "student"))
    )
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if options.config_only:
        save_without_weights(config, options.folder)
        tokenizer.save_pretrained(options.folder)
        print(f"{options.folder}: {options.shape}, {config.num_hidden_layers} layers, no weights")
        return
    model = draw(config, torch.float32 if is_gpt2 else torch.bfloat16, seed=options.seed)
    parameters = model.num_parameters()
    if model.device.type == "cuda" and torch.cuda.mem_get_info()[0] < model.get_memory_footprint():
        # Saving takes fused experts apart, into copies for which the card has no place.
        model = model.to("cpu")
    model.save_pretrained(options.folder)
    if is_gpt2:
        name_as_in_2019(options.folder / WEIGHTS)
    tokenizer.save_pretrained(options.folder)
    size = sum(file.stat().st_size for file in options.folder.iterdir())
    print(
        f"{options.folder}: {options.shape}, {config.num_hidden_layers} layers, "
        f"{parameters / 1e9:.2f} B parameters, {size / 2**30:.1f} GiB"
    )


def draw(config: PreTrainedConfig, dtype: torch.dtype, *, seed: int = 0) -> Any:
    """A model of random weights, on the GPU where there is one: a CPU takes minutes for 30 B."""
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def gpt2_tokenizer(vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """A tokenizer like GPT-2's, with the example teacher's merges, which are fewer.

    Byte-level BPE; the last of its tokens is ``<|endoftext|>``, which is bos, eos and unk; no
    padding token and no chat template. Tokens without a merge fill the vocabulary up.
    """
    trained = json.loads((EXAMPLE / "gpt2-teacher" / "tokenizer.json").read_text())["model"]
    end = "<|endoftext|>"
    texts = [text for text in trained["vocab"] if text != end]
    texts += [f"<unused{number}>" for number in range(vocabulary - 1 - len(texts))]
    ids = {text: number for number, text in enumerate([*texts, end])}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge) for merge in trained["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end,
        model_max_length=positions,
    )  # fmt: skip


def name_as_in_2019(path: Path) -> None:
    """Name GPT-2's weights as the published files do: without a prefix, the masks beside them."""
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    positions = weights["transformer.wpe.weight"].shape[0]
    renamed = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    mask = torch.ones(1, 1, positions, positions).tril()
    masks = {
        name.replace("c_attn.weight", "bias"): mask.clone()
        for name in renamed
        if name.endswith("attn.c_attn.weight")
    }
    save_file(renamed | masks, path, metadata={"format": "pt"})


def save_without_weights(config: PreTrainedConfig, folder: Path) -> None:
    """A model folder whose file of weights is empty."""
    with torch.device("meta"):
        config.architectures = [type(AutoModelForCausalLM.from_config(config)).__name__]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    save_file({}, folder / WEIGHTS)


def has_no_weights(folder: str) -> bool:
    """Whether a folder was made with --config_only."""
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        return False
    with safe_open(file, "pt") as weights:
        return not list(weights.keys())


@contextmanager
def drawn_where_missing() -> Iterator[None]:
    """Within it, a model made with --config_only has random weights, always the same."""
    from_files, vllm_arguments = AutoModelForCausalLM.from_pretrained, vllm_start._engine_arguments

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        if not has_no_weights(name):
            return from_files(name, *arguments, **options)
        if options.get("quantization_config"):
            sys.exit(f"{name} has no weights, and quantising reads them from files: make it anew")
        config = AutoConfig.from_pretrained(name)
        dtype = options.get("dtype", "auto")
        return draw(config, config.dtype if dtype == "auto" else dtype)

    def arguments(options: EngineOptions, *more: Any, **named: Any) -> dict[str, Any]:
        drawn = {"load_format": "dummy"} if has_no_weights(options.model) else {}
        return vllm_arguments(options, *more, **named) | drawn

    with (
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", load),
        mock.patch.object(vllm_start, "_engine_arguments", arguments),
    ):
        yield


if __name__ == "__main__":
    main()
