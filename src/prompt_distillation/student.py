"""A distilled student in Python: ask it, get its answers."""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from prompt_distillation.config import (
    EngineConfig,
    ModelConfig,
    SamplingConfig,
    Settings,
    block,
)
from prompt_distillation.tasks import ChatMessage, extract_answer

if TYPE_CHECKING:  # importing engines takes longer than `import prompt_distillation` may
    from prompt_distillation.engines import Engine, Request
    from prompt_distillation.engines.event_loop import BackgroundLoop

MAX_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Settings):
    """Settings of a `Student`: which model, what runs it, and how answers are drawn."""

    model: ModelConfig = block(ModelConfig)
    engine: EngineConfig = block(EngineConfig)
    sampling: SamplingConfig = block(SamplingConfig, max_tokens=MAX_TOKENS)


class Student:
    """A model that answers without a prompt and without thinking.

    The model is loaded at the first question and stays loaded until `close`, or the end of a
    ``with`` block. Works in scripts and in notebooks.

    Examples:
        >>> with Student("models/lang", engine="transformers", max_tokens=16) as student:
        ...     answers = student.answer_batch(["Wo ist der Bahnhof?", "Where is the station?"])
        >>> len(answers)
        2

    Args:
        path: an adapter, a merged model, or a hub name; with ``engine="server"`` the name that the
            server uses. The result of `train` is taken too.
        settings: any setting of `StudentConfig` by its flat name, e.g. ``engine="transformers"``,
            ``server_url=...``, ``max_tokens=64``, ``temperature=0.7``, ``base_model=...``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
    """

    def __init__(self, path: object, **settings: Any) -> None:
        name = str(getattr(path, "output_dir", path))
        self._config = StudentConfig.of(model_name=name, **settings)
        self._stack = AsyncExitStack()
        self._loop: BackgroundLoop | None = None
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        state = "not loaded yet" if self._engine is None else f"on {self._engine.name}"
        return f"Student({self._config.model.model_name!r}, {state})"

    def answer(self, text: str, *, history: Sequence[ChatMessage] = ()) -> str | None:
        """The student's answer to one text; None where it gives none, e.g. cut by ``max_tokens``.

        Args:
            text: what the user wrote.
            history: the turns before it, for a conversation.

        Raises:
            ModelError: there is no such model.
            EngineError: the engine cannot be had, or the request failed.
        """
        return self._ask([self._request(text, history)])[0]

    def answer_batch(self, texts: Iterable[str]) -> list[str | None]:
        """The student's answers to many texts, in their order, asked together; see `answer`.

        Raises:
            ModelError, EngineError: as for `answer`.
        """
        return self._ask([self._request(text, ()) for text in texts])

    def close(self) -> None:
        """Free the model. Idempotent; the next question loads it again."""
        if self._loop is None:
            return
        loop, self._loop, self._engine = self._loop, None, None
        try:
            loop.run(self._stack.aclose())
        finally:
            loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, text: str, history: Sequence[ChatMessage]) -> "Request":
        from prompt_distillation.engines import Request, Sampling

        sampling = self._config.sampling
        return Request(
            messages=(*history, {"role": "user", "content": text}),
            sampling=Sampling.of(sampling, max_tokens=sampling.max_tokens or MAX_TOKENS),
            prefill=sampling.prefill or "",
        )

    def _ask(self, requests: "list[Request]") -> list[str | None]:
        from prompt_distillation.engines.event_loop import BackgroundLoop

        if self._loop is None:
            self._loop = BackgroundLoop()
        try:
            return self._loop.run(self._answers(requests))
        except BaseException:
            if self._engine is None:  # it did not load: leave no thread behind
                self.close()
            raise

    async def _answers(self, requests: "list[Request]") -> list[str | None]:
        from prompt_distillation.engines import (
            RequestFailedError,
            engine_options,
            open_engine,
            stream,
        )

        if self._engine is None:
            config = self._config
            opening = open_engine(
                config.engine.engine,
                engine_options(config.model, config.engine, seed=config.sampling.seed),
            )
            self._engine = await self._stack.enter_async_context(opening)
        answers: list[str | None] = [None] * len(requests)
        async for position, outcome in stream(self._engine, enumerate(requests)):
            if isinstance(outcome, RequestFailedError):
                raise outcome
            answers[position] = extract_answer(
                outcome.text,
                finish_reason=outcome.finish_reason,
                thinking=False,
                reasoning=outcome.reasoning,
            ).text
        return answers
