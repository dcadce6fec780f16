"""What a run starts from: its files and packages checked, its rows encoded, its model loaded."""

import importlib.util
import logging
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.checkpoints import ADAPTER_CONFIG, check_model, resolve_model
from prompt_distillation.config import ModelConfig
from prompt_distillation.config.train_config import FourBitConfig, TrainConfig
from prompt_distillation.data.files import has_content, sibling
from prompt_distillation.errors import ConfigError, InputError, ModelError

if TYPE_CHECKING:
    from prompt_distillation.training.encode import EncodedRows

logger = logging.getLogger(__name__)

ADAPTER_OFF = "none"
"""What ``--teacher_model`` calls the student's own base."""


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run whose settings are checked and whose rows are encoded; no weights are loaded yet."""

    config: TrainConfig
    options: Mapping[str, Any]
    model_config: Any
    tokenizer: Any
    rows: "EncodedRows"
    held_out: "EncodedRows | None"


def check_before_loading(config: TrainConfig, options: Mapping[str, Any]) -> None:
    """Refuse what can be seen to be wrong before the libraries load, which takes seconds.

    Raises:
        ModelError: there is no such model.
        InputError: there is no such file of rows.
        ConfigError: a package is missing, or two options contradict each other.
    """
    check_model(config.model.model_name, weights=not config.dry_run)
    if config.lora.adapter_path is not None:
        resolved = resolve_model(str(config.lora.adapter_path), config.model.model_name)
        if resolved.adapter is None:
            raise ModelError(
                f"--adapter_path {config.lora.adapter_path}: {ADAPTER_CONFIG} is not there; pass "
                "the folder of a training run with an adapter"
            )
    _require_file(config.train_file)
    has_held_out = held_out_file(config) is not None
    if (
        config.early_stopping_patience is not None or "metric_for_best_model" in options
    ) and not has_held_out:
        raise ConfigError(
            "early stopping and metric_for_best_model need held-out rows; pass --eval_file"
        )
    optimizer = str(options.get("optim", ""))
    wanted = ["--load_in_4bit"] if config.four_bit.load_in_4bit else []
    # PyTorch's own 8-bit AdamW (adamw_torch_8bit) is torchao's.
    if any(part in optimizer for part in ("8bit", "paged", "bnb")) and "torch" not in optimizer:
        wanted.append(f"--optim {optimizer}")
    # The plan needs shapes only.
    if wanted and not config.dry_run and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{wanted[0]} needs the package bitsandbytes: pip install bitsandbytes")


def adapter_files(folder: Path | None) -> list[Path]:
    """Files of the adapter that a run begins with; none without one."""
    if folder is None:
        return []
    return [folder / ADAPTER_CONFIG, *sorted(folder.glob("adapter_model.*"))]


def held_out_file(config: TrainConfig) -> Path | None:
    """The held-out rows: named, or beside the training file where they exist."""
    if config.eval_file == "none":
        return None
    if config.eval_file == "auto":
        path = sibling(config.train_file, "heldout")
        return path if has_content(path) else None
    path = Path(config.eval_file)
    _require_file(path)
    return path


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"no such file: {path}; label some inputs first with create_data.py, or check the path "
            f"(the current folder is {Path.cwd()})"
        )


def keep_to_one_gpu(environment: MutableMapping[str, str]) -> None:
    """Without a launcher one process trains on one GPU; TRL refuses to see more.

    ``accelerate launch`` (``NUM_PROCESSES=8 bash train_trl.sh``) uses them all.
    """
    import torch

    if "LOCAL_RANK" in environment or torch.cuda.is_initialized():
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(map(str, range(torch.cuda.device_count())))
    if "," in visible:
        environment["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]


def process_count() -> int:
    """Processes that train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_sharded() -> bool:
    """Whether a launcher has chosen FSDP or DeepSpeed, which place the weights themselves."""
    return any(f"ACCELERATE_USE_{name}" in os.environ for name in ("FSDP", "DEEPSPEED"))


def prepare(config: TrainConfig, options: Mapping[str, Any]) -> PreparedRun:
    """Read and encode the rows."""
    from prompt_distillation.data.chat_rows import read_chat_rows
    from prompt_distillation.engines.prompts import end_of_turn_ids
    from prompt_distillation.training.encode import encode_rows

    rows = read_chat_rows(config.train_file)
    eval_file = held_out_file(config)
    held_out = read_chat_rows(eval_file) if eval_file else None
    tokenizer = load_student_tokenizer(config.model)
    model_config = configuration_of(config.model)
    stop_ids = end_of_turn_ids(tokenizer, _generation_config(config.model, model_config))
    encoded, encoded_held_out = (
        encode_rows(
            part,
            tokenizer,
            stop_ids=stop_ids,
            max_length=config.max_length,
            assistant_turns=config.assistant_turns,
        )
        if part is not None
        else None
        for part in (rows, held_out)
    )
    assert encoded is not None
    return PreparedRun(
        config=config, options=options, model_config=model_config, tokenizer=tokenizer,
        rows=encoded, held_out=encoded_held_out,
    )  # fmt: skip


def configuration_of(model: ModelConfig) -> Any:
    """A model's configuration, as transformers reads it.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model.model_name, **_source(model))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the configuration of {model.model_name}: {error}") from error


def teacher_in_memory(config: TrainConfig) -> ModelConfig | None:
    """The teacher that a run holds beside its student; None where there is none."""
    on_policy = config.method == "on_policy" and config.teacher.model_name != ADAPTER_OFF
    return config.teacher if on_policy and config.on_policy.teacher_server_url is None else None


def _source(model: ModelConfig) -> dict[str, Any]:
    return {"revision": model.revision, "trust_remote_code": model.trust_remote_code}


def _generation_config(model: ModelConfig, model_config: Any) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model.model_name, revision=model.revision)
    except OSError:  # a model without such a file
        return GenerationConfig.from_model_config(model_config)


def load_student_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer, with another chat template or other defaults of it where they are given."""
    from transformers import AutoTokenizer

    from prompt_distillation.engines.prompts import read_chat_template
    from prompt_distillation.training.encode import set_template_defaults

    name = model.model_name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **_source(model))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {name}: {error}") from error
    template = read_chat_template(model.chat_template_path)
    if template is not None:
        tokenizer.chat_template = template
    set_template_defaults(tokenizer, model.chat_template_kwargs or {})
    return tokenizer


def base_dtype(config: TrainConfig, *, on_gpu: bool) -> Any:
    """Type of the base weights.

    ``auto`` is bfloat16 under an adapter on a GPU, and float32 on a CPU (as fast there, and exact)
    and for a full fine-tune, whose small updates bfloat16 would round away.
    """
    import torch

    if config.model.dtype != "auto":
        return getattr(torch, config.model.dtype)
    return torch.bfloat16 if on_gpu and config.lora.use_lora else torch.float32


def load_student(config: TrainConfig, options: Mapping[str, Any], *, on_gpu: bool) -> Any:
    """The model, its weights on the device of this process, quantised as they come in."""
    from transformers import AutoModelForCausalLM

    from prompt_distillation.training.fused_norms import fuse_norms

    name = config.model.model_name
    arguments = {"dtype": base_dtype(config, on_gpu=on_gpu), **_source(config.model)}
    if config.attn_implementation != "auto":
        arguments["attn_implementation"] = config.attn_implementation
    if on_gpu and not is_sharded():
        arguments["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if config.four_bit.load_in_4bit:
        arguments["quantization_config"] = _four_bit_quantiser(config.model, config.four_bit)
    own = dict(options.get("model_init_kwargs") or {})
    if config.four_bit.load_in_4bit and "quantization_config" in own:
        raise ConfigError(
            "--model_init_kwargs sets a quantization_config, which conflicts with --load_in_4bit; "
            "remove one of the two"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(name, **(arguments | own))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load {name}: {error}") from error
    if on_gpu:
        fuse_norms(model)
    return model


def keep_rows_apart(run: PreparedRun, model: Any) -> PreparedRun:
    """Have rows padded instead of laid end to end where the model would mix them.

    Where it does not, each row is made to attend to itself without a dense mask.
    """
    from prompt_distillation.training.varlen_attention import use_varlen_attention

    packs = bool(run.options.get("packing", False))
    if run.config.method == "on_policy" or not (run.config.fill_micro_batch or packs):
        return run  # padded
    if rows_stay_apart(model):
        if run.config.attn_implementation == "auto":
            use_varlen_attention(model)
        return run
    family = type(model).__name__
    if packs:
        raise ConfigError(
            f"--packing: {family} does not keep rows apart that share a sequence, so they would "
            "be trained on each other's text; leave it out"
        )
    logger.warning(
        "%s does not keep rows apart that are laid end to end: they are padded instead, as with "
        "--fill_micro_batch false (slower, same result)", family,
    )  # fmt: skip
    return replace(run, config=replace(run.config, fill_micro_batch=False))


def rows_stay_apart(model: Any) -> bool:
    """Whether a row is computed alike whatever row is laid in front of it in one sequence.

    Positions that begin anew tell transformers where a row begins. Recurrent layers (Qwen3-Next,
    Qwen3.5, Jamba) carry their state across, and some families build their mask without the
    positions (gpt-oss, OPT, Falcon in transformers 5.19).
    """
    import torch

    length, vocabulary = 8, int(model.config.get_text_config().vocab_size)
    ids = torch.arange(4 * length, device=model.device).reshape(4, length) % vocabulary
    positions = torch.arange(length, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        # The same second row, and the same shapes, so that kernels round alike.
        first, second = (
            model(input_ids=pair.reshape(1, -1), position_ids=positions, use_cache=False)
            .logits[0, length:]
            .float()
            for pair in (ids[[0, 3]], ids[[1, 3]])
        )
    model.train(was_training)
    tolerance = 10 * torch.finfo(model.dtype).eps * float(first.abs().max())
    return bool((first - second).abs().max() <= tolerance)


def _four_bit_quantiser(model: ModelConfig, four_bit: FourBitConfig) -> Any:
    from transformers import PretrainedConfig

    from prompt_distillation.training.quantisation.base_weights import FourBitQuantization

    if is_sharded():
        raise ConfigError(
            "--load_in_4bit does not work with FSDP and DeepSpeed, which shard or broadcast the "
            "base weights; use DDP (recipes/accelerate/ddp.yaml), where each GPU holds the 4-bit "
            "base, or leave --load_in_4bit out"
        )
    try:
        stored, _ = PretrainedConfig.get_config_dict(model.model_name, revision=model.revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {model.model_name}: {error}") from error
    if "quantization_config" in stored:
        method = stored["quantization_config"].get("quant_method")
        raise ModelError(
            f"{model.model_name} is already quantised ({method}); --load_in_4bit takes the model "
            "in bfloat16, float16 or float32: name that one, or leave --load_in_4bit out"
        )
    return FourBitQuantization(four_bit)
