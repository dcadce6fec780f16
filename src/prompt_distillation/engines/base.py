"""What every engine does: complete conversations, many at once.

Engines are asynchronous because vLLM and servers are: hundreds of requests stay in flight, each
completion is returned as soon as it is finished, and a retry is one more request. Callers keep
`Engine.concurrency` requests in flight (see `concurrency`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from prompt_distillation.config import Dtype, SamplingConfig
from prompt_distillation.data.answer_logprobs import AnswerLogprobs
from prompt_distillation.errors import EngineError
from prompt_distillation.machine import Device
from prompt_distillation.tasks import AnswerKind, ChatMessage

FinishReason = Literal["stop", "length"]


class RequestFailedError(EngineError):
    """One request failed, after the engine's own retries; others may still succeed."""


class RequestRefusedError(RequestFailedError):
    """The engine refuses this request; sending it again would not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one completion is drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        max_tokens: most new tokens, reasoning included.
        seed: of this request's own generator, so that a result does not depend on its batch.
        max_thinking_tokens: budget of the reasoning, where the engine can hold it to one.
        choices: if given, decoding is constrained to one of these texts, where the engine can.
        json_schema: if given, decoding is constrained to JSON that is valid by this schema.
        thinking: whether the model reasons first: a constraint holds from ``</think>`` on.
        top_logprobs: alternatives of each token of the answer to return; 0: none.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 4096
    seed: int = 0
    max_thinking_tokens: int | None = None
    choices: tuple[str, ...] | None = None
    json_schema: str | None = None
    thinking: bool = False
    top_logprobs: int = 0

    def constrained_to(self, answers: AnswerKind) -> "Sampling":
        """The same, with decoding constrained to the answers of a kind that has a list or schema.

        >>> from prompt_distillation.tasks import load_task
        >>> Sampling().constrained_to(load_task("tasks/language").answers).choices[:2]
        ('ar', 'de')
        """
        choices = tuple(answers.labels) or None
        return replace(self, choices=choices, json_schema=answers.json_schema)

    @classmethod
    def of(cls, config: SamplingConfig, *, max_tokens: int, **changes: Any) -> Self:
        """By the settings of a command, with ``changes``."""
        names = ("temperature", "top_p", "seed", "max_thinking_tokens")
        values = {name: getattr(config, name) for name in names}
        return cls(max_tokens=max_tokens, **values | changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One conversation to complete.

    Attributes:
        messages: the turns; the last is the user's.
        prefill: text the assistant's turn begins with (not part of the completion).
        on_text: called, in the event loop, with all of the text so far each time there is more of
            it; what runs on Ray does not call it.
    """

    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    prefill: str = ""
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: the new text, without the end-of-turn token, ``</think>`` kept.
        finish_reason: ``stop``, or ``length`` if ``max_tokens`` cut it.
        prompt_tokens: tokens of the rendered conversation, prompt included.
        completion_tokens: new tokens, reasoning and the end-of-turn token included.
        cached_tokens: prompt tokens served from the prefix cache; None if unknown.
        seconds: from submission to the last token, queueing included.
        first_token_seconds: from submission to the first token; None if unknown.
        reasoning: the reasoning, where a server delivers it apart from ``text``.
        repaired: whether half characters (lone surrogates) in them were replaced.
        logprobs: of what follows the reasoning, where ``top_logprobs`` were asked for.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cached_tokens: int | None = None
    first_token_seconds: float | None = None
    reasoning: str | None = None
    repaired: bool = False
    logprobs: AnswerLogprobs | None = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What to load and how. Each engine ignores what it has no use for.

    Attributes:
        model: a folder or a hub name; for a server, the name it serves.
        adapter: a PEFT adapter's folder, put on top of ``model``.
        device: ``auto`` takes the GPUs if there are any; ``cuda`` and ``cpu`` insist.
        dtype: ``auto`` is the checkpoint's, but half precision for float32 on a GPU and in vLLM.
        chat_template: text of the template to use instead of the model's own.
        prefix_caching: compute what prompts share once; off only to measure what it brings.
        seed: of the engine itself.

    The others are those of `ModelConfig` and `EngineConfig`.
    """

    model: str
    adapter: Path | None = None
    revision: str | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    prefix_caching: bool = True
    max_concurrency: int | None = None
    server_url: str | None = None
    request_timeout_seconds: float = 600.0
    seed: int = 0
    trust_remote_code: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = None
    chat_template: str | None = None
    ray_address: str | None = None
    ray_workers: int | None = None


class Engine(Protocol):
    """A model that completes conversations."""

    @property
    def name(self) -> str:
        """``vllm``, ``transformers`` or ``server``."""

    @property
    def concurrency(self) -> int:
        """How many requests to keep in flight."""

    async def complete(self, request: Request) -> Completion:
        """Complete one conversation.

        Raises:
            RequestFailedError: this request cannot be completed.
            EngineError: the engine is gone; no request can be.
        """

    async def aclose(self) -> None:
        """Free the model's memory and processes. Idempotent."""
