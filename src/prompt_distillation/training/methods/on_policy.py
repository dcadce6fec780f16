"""``--method on_policy``: who the teacher is, what it reads, and whether it all fits.

The loss is in `on_policy_trainer`, which loads torch.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.checkpoints import check_model
from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.data.files import sibling
from prompt_distillation.errors import ConfigError, InputError
from prompt_distillation.tasks import Task, task_files
from prompt_distillation.training.loading import (
    ADAPTER_OFF,
    PreparedRun,
    configuration_of,
    load_student,
    teacher_in_memory,
)
from prompt_distillation.training.teacher_contexts import (
    TeacherContext,
    check_lengths,
    check_vocabularies,
    prompting_task,
    read_contexts,
)

if TYPE_CHECKING:
    from prompt_distillation.engines.prompts import PromptEncoder
    from prompt_distillation.training.teacher_server import TeacherServer

logger = logging.getLogger(__name__)

SHOWN_TOKENS = 16
"""Of the teacher's context, in the log."""


class OnPolicyDistillation:
    """See `prompt_distillation.training.methods.method.TrainingMethod`.

    Raises:
        ConfigError: settings that contradict each other.
        ModelError: there is no such teacher.
    """

    trl_config = "DistillationConfig"

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._settings = config.on_policy
        self._contexts: Mapping[str, TeacherContext] = {}
        self._server: TeacherServer | None = None
        self._asks_base = config.teacher.model_name == ADAPTER_OFF
        url = self._settings.teacher_server_url
        if self._asks_base and url is not None:
            raise ConfigError(
                "--teacher_server_url needs --teacher_model: the name that the server uses, whose "
                "tokenizer is also loaded here"
            )
        if self._asks_base and not config.lora.use_lora:
            raise ConfigError(
                "--method on_policy without an adapter needs --teacher_model: the student's base "
                "is its teacher only while the adapter can be switched off"
            )
        if config.assistant_turns == "all":
            raise ConfigError(
                "--method on_policy scores the answer at the end of a conversation; leave out "
                "--assistant_turns all"
            )
        if not self._asks_base:
            check_model(config.teacher.model_name, weights=url is None)

    @cached_property
    def _task(self) -> Task:
        manifest = sibling(self._config.train_file, "manifest")
        return prompting_task(manifest, self._settings.task)

    @property
    def _records_file(self) -> Path:
        return sibling(self._config.train_file, "records")

    def files(self) -> list[Path]:
        """The records, the task, and the teacher's configuration where it is in a folder.

        Raises:
            InputError: there are no records.
            ConfigError: the task is not known, or has another prompt than the labels.
        """
        if not self._records_file.is_file():
            raise InputError(
                f"no such file: {self._records_file}; --method on_policy reads the teacher's "
                "reasoning there: create_data.py writes it beside the dataset"
            )
        config = Path(self._config.teacher.model_name) / "config.json"
        files = [self._records_file, *task_files(self._task.path)]
        return [file for file in [*files, config] if file.is_file()]

    def defaults(self) -> dict[str, Any]:
        """Values of `DistillationConfig` where the user names none."""
        return {
            "max_completion_length": self._task.answers.max_tokens(with_prompt=False),
            "top_p": 0.95,
        }

    def read(self, run: PreparedRun) -> None:
        """Encode what the teacher reads for each row.

        Raises:
            InputError: no row has a record, or the teacher cannot read all that it should.
            ConfigError: another vocabulary, too few rows for a step, or a server that shall score
                at a temperature.
            ModelError: the teacher's tokenizer cannot be loaded.
            EngineError: no server answers.
        """
        encoder = self._encoder(run)
        if not self._asks_base:
            name = self._config.teacher.model_name
            check_vocabularies(run.tokenizer, encoder.tokenizer, name=name)
        url = self._settings.teacher_server_url
        if url is not None:
            from prompt_distillation.training.teacher_server import TeacherServer

            if float(run.options.get("temperature", 1.0)) != 1.0:
                raise ConfigError(
                    "--temperature is 1 with a --teacher_server_url: vLLM scores prompts without a "
                    "temperature; leave it out"
                )
            self._server = TeacherServer(url, self._config.teacher.model_name)
        self._contexts = read_contexts(
            self._records_file,
            run.rows.rows,
            self._task,
            encoder,
            with_reasoning=self._settings.teacher_reasoning,
        )
        first = next(iter(self._contexts.values())).ids
        logger.info(
            "the teacher reads %d tokens before the first answer; they end in %r",
            len(first), encoder.decode(first[-SHOWN_TOKENS:]),
        )  # fmt: skip
        longest = run.options.get("max_completion_length")
        longest = longest or self.defaults()["max_completion_length"]
        check_lengths(
            self._contexts,
            # A server writes at least a token more.
            answer_tokens=longest + (self._server is not None),
            limit=self._limit(run),
        )

    def _encoder(self, run: PreparedRun) -> "PromptEncoder":
        from prompt_distillation.engines.base import EngineOptions
        from prompt_distillation.engines.prompts import PromptEncoder, read_chat_template

        if self._asks_base:
            # The student's template is set to answer without thinking; its base reads reasoning.
            thinks = {"enable_thinking": self._settings.teacher_reasoning}
            name = self._config.model.model_name
            return PromptEncoder(run.tokenizer, model=name, chat_template_kwargs=thinks)
        teacher = self._config.teacher
        return PromptEncoder.of(
            EngineOptions(
                model=teacher.model_name,
                revision=teacher.revision,
                trust_remote_code=teacher.trust_remote_code,
                chat_template_kwargs=teacher.chat_template_kwargs,
                chat_template=read_chat_template(teacher.chat_template_path),
            )
        )

    def _limit(self, run: PreparedRun) -> int | None:
        """Longest sequence of the teacher, in tokens; None where it is not known."""
        if self._server is not None:
            own = self._server.max_length
        else:
            config = run.model_config if self._asks_base else configuration_of(self._config.teacher)
            own = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (own, self._settings.teacher_max_length) if limit]
        return min(limits, default=None)

    def trainer(self, run: PreparedRun, **arguments: Any) -> Any:
        """See `OnPolicyTrainer`.

        Raises:
            ConfigError: there are fewer rows than a step takes, or vLLM shall sample on a CPU.
        """
        from prompt_distillation.training.methods.on_policy_trainer import OnPolicyTrainer

        trl = arguments["args"]
        if trl.use_vllm and trl.device.type == "cpu":
            raise ConfigError(
                "--use_vllm samples on a GPU only: on a CPU vLLM 0.32 cannot take over the weights "
                "that training has changed; leave it out"
            )
        per_step = (
            trl.per_device_train_batch_size * trl.gradient_accumulation_steps * trl.world_size
        )
        if len(self._contexts) < per_step:
            raise ConfigError(
                f"{len(self._contexts)} rows are fewer than the {per_step} of an optimizer step; "
                "lower --per_device_train_batch_size or --gradient_accumulation_steps"
            )
        return OnPolicyTrainer(
            contexts=self._contexts,
            held_out=run.held_out.rows if run.held_out else (),
            teacher_model=self._load_teacher(on_gpu=trl.device.type == "cuda"),
            server=self._server,
            token_clip=self._settings.token_clip,
            **arguments,
        )

    def _load_teacher(self, *, on_gpu: bool) -> Any:
        """The teacher in process; None where it is the student's base, or behind a server."""
        if teacher_in_memory(self._config) is None:
            return None
        from dataclasses import replace

        from prompt_distillation.config.train_config import FourBitConfig

        as_student = replace(self._config, model=self._config.teacher, four_bit=FourBitConfig())
        teacher = load_student(as_student, {}, on_gpu=on_gpu)
        return teacher.requires_grad_(False).eval()

    def manifest(self) -> Mapping[str, Any]:
        """Who the teacher was, and how much it read."""
        lengths = [len(context.ids) for context in self._contexts.values()]
        return {
            "teacher": "adapter off" if self._asks_base else self._config.teacher.model_name,
            "rows": len(lengths),
            "teacher_tokens_per_row": round(sum(lengths) / max(1, len(lengths)), 1),
        }
