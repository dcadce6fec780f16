"""What lies at a model path: a full model, an adapter on a base model, or a name on the hub."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_distillation.errors import ModelError

logger = logging.getLogger(__name__)

DEFAULT_BASE_MODEL = "Qwen/Qwen3-30B-A3B-Instruct-2507"
BASE_ALONE = "none"

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """What to load.

    Attributes:
        base: a folder or hub name of a full model.
        adapter: folder of the PEFT adapter to put on top of it, if any.
    """

    base: str
    adapter: Path | None = None


def resolve_model(model_path: str, base_model: str | None = None) -> ResolvedModel:
    """Find out what ``model_path`` is.

    Args:
        model_path: a folder with an adapter or a full model, a hub name, or ``none`` for the base
            model alone.
        base_model: the base an adapter goes on. None takes the one recorded in the adapter, and
            for ``none`` Qwen/Qwen3-30B-A3B-Instruct-2507.

    Raises:
        ModelError: a path without a model, files missing, or an adapter that was trained on
            another base model than ``base_model``.
    """
    if model_path == BASE_ALONE:
        base = served_name(model_path, base_model)
        check_model(base)
        return ResolvedModel(base=base)
    folder = Path(model_path)
    if (folder / ADAPTER_CONFIG).is_file():
        return _resolve_adapter(folder, base_model)
    check_model(model_path)
    return ResolvedModel(base=model_path)


def served_name(model_path: str, base_model: str | None = None) -> str:
    """The name that a server is asked for: of ``model_path``, or of the base model for ``none``."""
    return model_path if model_path != BASE_ALONE else base_model or DEFAULT_BASE_MODEL


def check_model(model: str, *, weights: bool = True) -> None:
    """See that ``model`` may be a full model: a hub name, or a folder with config and weights.

    ``weights`` is False where the configuration is enough.

    Raises:
        ModelError: it is a path, and there is no full model.
    """
    folder = Path(model)
    if not folder.exists():
        if _lies_in_a_folder_here(model):
            raise ModelError(
                f"no model at {model}: there is no such folder in {folder.parts[0]}/; check the "
                "path, or, if the hub's model of this name is meant, start from a folder without "
                f"{folder.parts[0]}/ (the current folder is {Path.cwd()})"
            )
        if _looks_like_path(model):
            raise ModelError(
                f"no model at {model}: there is no such folder; check the path (the current folder "
                f"is {Path.cwd()}), or pass a hub name like Qwen/Qwen3-4B-Instruct-2507"
            )
        return
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{model} is an adapter; expected a full model: pass its base model")
    if not (folder / MODEL_CONFIG).is_file():
        raise ModelError(
            f"no model at {model}: neither {MODEL_CONFIG} nor {ADAPTER_CONFIG} is in it; "
            "expected a folder written by train_sft_trl.py or save_pretrained"
        )
    if weights and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelError(
            f"the model at {model} is incomplete: {MODEL_CONFIG} without any weights; copy or "
            "download it again"
        )


def _looks_like_path(model: str) -> bool:
    """Hub names are ``NAME`` or ``OWNER/NAME``; anything else can only be a path."""
    return model.startswith((".", "/", "~")) or model.endswith("/") or model.count("/") > 1


def _lies_in_a_folder_here(model: str) -> bool:
    """Whether a name could be the hub's, but begins with a folder that is here: a mistyped path."""
    owner, slash, _ = model.partition("/")
    return bool(slash) and not _looks_like_path(model) and Path(owner).is_dir()


def _resolve_adapter(folder: Path, base_model: str | None) -> ResolvedModel:
    recorded = read_adapter_base(folder)
    base = base_model or recorded
    if base is None:
        raise ModelError(f"the adapter at {folder} does not record its base; pass --base_model")
    if recorded is not None and base_model is not None and not _same_model(recorded, base_model):
        raise ModelError(
            f"the adapter at {folder} was trained on {recorded}, not on {base_model}; leave out "
            f"--base_model, or pass --base_model {recorded}"
        )
    check_model(base)
    return ResolvedModel(base=base, adapter=folder)


def read_adapter_base(folder: Path) -> str | None:
    """The base model that an adapter's folder records."""
    path = folder / ADAPTER_CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the adapter's {path}: {error}") from error
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: expected a JSON object, got a {type(fields).__name__}")
    if not any(folder.glob("adapter_model.*")):
        raise ModelError(
            f"the adapter at {folder} is incomplete: it has no adapter_model file; copy it again, "
            "or pass a folder in which training has ended"
        )
    base = fields.get("base_model_name_or_path")
    return str(base) if base else None


def _same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: the same text, the same folder, or one copied elsewhere."""
    if one == other:
        return True
    first, second = Path(one), Path(other)
    if first.exists() and second.exists() and first.resolve() == second.resolve():
        return True
    # A hub model downloaded into a folder of its name is the same model.
    return first.name == second.name


def merged_in_memory(model: Any, adapter: Path) -> Any:
    """Put ``adapter`` on ``model`` and fold it into the weights.

    Folded, because PEFT otherwise recomputes the update of every expert on every forward pass.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the adapter at {adapter} does not fit its base model, which --base_model names: "
            f"{error}"
        ) from error


def merge_adapter(
    base: str,
    adapter: Path,
    output_dir: Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write ``base`` with ``adapter`` folded in, experts included, as a full model.

    Raises:
        ModelError: one of the two cannot be loaded, or they do not fit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_model(base)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", revision=revision, trust_remote_code=trust_remote_code
        )
        has_own = (adapter / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(
            str(adapter) if has_own else base,
            revision=None if has_own else revision,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the base model {base}: {error}") from error
    model = merged_in_memory(model, adapter)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return output_dir
