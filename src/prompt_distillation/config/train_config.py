"""Settings of a training run; the defaults are the reference hyperparameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_distillation.config import ModelConfig, Settings, block, option
from prompt_distillation.errors import ConfigError

DEFAULT_STUDENT_BASE = "Qwen/Qwen3-30B-A3B-Instruct-2507"


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """What is adapted, and how large the adapter is."""

    use_lora: bool = option(True, "train an adapter; false trains every weight")
    lora_rank: int = option(32, "rank of the adapter of a linear layer", low=1, high=4096)
    lora_alpha: int = option(
        16, "the adapter's update is scaled by alpha / rank", low=1, high=65_536
    )
    lora_expert_rank: int | None = option(
        None, "rank of each expert's adapter; none: --lora_rank / number of experts per token",
        low=1, high=4096,
    )  # fmt: skip
    lora_targets: str = option(
        "all-linear",
        "all-linear (attention and experts, not the router), attention, or names of modules",
    )
    expert_lora: Literal["auto", "activations", "folded"] = option(
        "auto",
        "activations: an expert's adapter runs on the tokens routed to it; folded: added to all "
        "experts on every pass, as PEFT does (slower, more memory); auto: activations where "
        "supported",
    )
    adapter_path: Path | None = option(
        None,
        "adapter to train on from, e.g. of an sft run; its ranks and targets hold; none: a new one",
    )


@dataclass(frozen=True, kw_only=True)
class FourBitConfig(Settings):
    """Base weights in 4 bits (QLoRA)."""

    load_in_4bit: bool = option(
        False, "keep the base weights in 4 bits (QLoRA): a quarter of the memory, slower"
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = option("nf4", "number format of the 4 bits")
    use_bnb_nested_quant: bool = option(
        False, "quantise the scales of the 4 bits too: 0.05 bytes less per weight"
    )
    bnb_4bit_experts: bool = option(
        True, "fused experts in 4 bits too; false: linear layers only, as bitsandbytes does"
    )


@dataclass(frozen=True, kw_only=True)
class SoftConfig(Settings):
    """How `--method soft` learns from the teacher's probabilities."""

    soft_targets: Literal["auto", "labels", "tokens"] = option(
        "auto",
        "labels: the probability of each label, whatever the teacher's vocabulary; tokens: of the "
        "answer's tokens as the teacher wrote them; auto: labels where the task has them",
    )
    soft_weight: float = option(
        1.0, "share of the teacher's probabilities in the loss; the rest is cross-entropy",
        low=0, high=1,
    )  # fmt: skip
    soft_temperature: float = option(
        1.0,
        "softmax temperature of the stored candidates, for teacher and student",
        above=0,
        high=100,
    )


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(Settings):
    """How the teacher scores the student's own answers (--method on_policy)."""

    task: str | None = option(
        None, "folder of the task whose prompt the teacher reads; none: as the dataset records it"
    )
    teacher_server_url: str | None = option(
        None, "base URL of a vLLM server that scores, ending in /v1; none: the teacher runs here"
    )
    teacher_reasoning: bool = option(
        True, "the teacher reads the reasoning that it wrote when it labelled the input"
    )
    teacher_max_length: int | None = option(
        None,
        "longest prompt, reasoning and answer of the teacher, in tokens; none: the model's limit",
        low=8,
    )
    token_clip: float | None = option(
        5.0, "largest loss of one token, in nats; none: no limit", above=0
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Settings of `train_sft_trl.py` and of `train`, beside the fields of TRL's `SFTConfig`."""

    train_file: Path = option(
        Path("./data/prompt_distillation_lang.jsonl"), "chat rows to train on"
    )
    eval_file: str = option(
        "auto",
        "chat rows for the held-out loss: a file, none, or auto (the NAME.heldout.jsonl beside it)",
    )
    method: Literal["sft", "soft", "on_policy"] = option(
        "sft",
        "what is learned from the teacher; sft: its answers, by cross-entropy; soft: its "
        "probabilities of the answers' tokens (needs create_data.py --top_logprobs 20); on_policy: "
        "its scores of the student's own answers",
    )
    soft: SoftConfig = block(SoftConfig)
    model: ModelConfig = block(ModelConfig, omit=("base_model",), model_name=DEFAULT_STUDENT_BASE)
    output_dir: Path = option(Path("./models/prompt_distillation_trl"), "folder of the result")
    lora: LoraSettings = block(LoraSettings)
    num_train_epochs: float = option(1.0, "passes over the rows", above=0, high=100_000)
    per_device_train_batch_size: int = option(
        4, "rows per device and forward pass (see --fill_micro_batch)", low=1, high=65_536
    )
    gradient_accumulation_steps: int = option(
        4, "forward passes per optimizer step (see --fill_micro_batch)", low=1, high=65_536
    )
    fill_micro_batch: bool = option(
        True,
        "put the rows of an optimizer step into fewer passes without padding; same loss, faster",
    )
    tokens_per_step: int | None = option(
        None,
        "tokens per optimizer step over all devices, on average; sets the rows and passes of a "
        "step instead of the two batch flags",
        low=1,
    )
    learning_rate: float = option(2e-4, "highest learning rate", low=0, high=1)
    max_length: int = option(
        2048, "longest row in tokens; longer rows are left out", low=8, high=2**24
    )
    assistant_turns: Literal["last", "all"] = option(
        "last",
        "turns of a conversation with loss: the answer at its end, or every turn of the assistant",
    )
    warmup_ratio: float = option(
        0.03, "share of the steps in which the learning rate rises", low=0, high=0.999
    )
    lr_scheduler_type: str = option(
        "cosine_with_min_lr", "learning-rate schedule, as transformers names it"
    )
    min_lr_rate: float = option(
        0.1, "final learning rate as a share of the highest (cosine_with_min_lr)", low=0, high=1
    )
    gradient_checkpointing: bool | None = option(
        None,
        "recompute activations: less memory, slower; auto: off if the memory estimate leaves 10 % "
        "free",
    )
    four_bit: FourBitConfig = block(FourBitConfig)
    on_policy: OnPolicyConfig = block(OnPolicyConfig)
    teacher: ModelConfig = block(
        ModelConfig,
        prefix="teacher_",
        rename={"model_name": "teacher_model"},
        omit=("base_model",),
    )
    attn_implementation: str = option(
        "auto",
        "attention, as transformers names it; auto: its own choice, without a dense mask for rows "
        "laid end to end",
    )
    report_to: Literal["wandb", "tensorboard", "none"] = option(
        "wandb", "experiment tracker; without a login wandb records offline"
    )
    run_name: str | None = option(None, "name of the run in the tracker")
    resume_from_checkpoint: str = option(
        "auto", "checkpoint to continue from: auto (the newest of this run), none, or a folder"
    )
    held_out_answers: int = option(
        64, "held-out rows answered by generation at each evaluation, for eval_accuracy; 0: none",
        low=0,
    )  # fmt: skip
    early_stopping_patience: int | None = option(
        None, "evaluations without a better metric_for_best_model before training stops", low=1
    )
    seed: int = option(0, "seed of adapter initialisation and row order", low=0, high=2**32 - 1)
    overwrite: bool = option(False, "replace a finished run in --output_dir")
    dry_run: bool = option(False, "estimate memory and steps without training, and propose flags")
    device_memory_gib: float | None = option(
        None,
        "GiB that --dry_run plans for, and --gradient_checkpointing auto; none: this machine's "
        "(or 80)",
        low=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "soft" and self.soft != SoftConfig():
            raise ConfigError(
                f"--soft_targets, --soft_weight and --soft_temperature are of --method soft, and "
                f"--method is {self.method}; leave them out, or train with --method soft"
            )
        asked = self.on_policy != OnPolicyConfig() or self.teacher != ModelConfig()
        if self.method != "on_policy" and asked:
            raise ConfigError(
                f"--task, --token_clip and the flags of the teacher are of --method on_policy, and "
                f"--method is {self.method}; leave them out, or train with --method on_policy"
            )
        if self.four_bit.load_in_4bit and not self.lora.use_lora:
            raise ConfigError(
                "--load_in_4bit freezes the base and trains an adapter on it; leave out "
                "--use_lora false, or --load_in_4bit"
            )
        if self.lora.adapter_path is not None and not self.lora.use_lora:
            raise ConfigError(
                "--adapter_path trains an adapter; leave out --use_lora false, or --adapter_path"
            )
