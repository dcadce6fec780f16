"""`scripts/chat.py`: talk to the teacher and to the student, side by side."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.cli.options import parse_options
from prompt_distillation.config import EngineConfig, SamplingConfig, TokenPriceConfig, block, option
from prompt_distillation.config.compare_config import CostConfig, ModelsConfig
from prompt_distillation.data.files import write_jsonl
from prompt_distillation.data.text import encodable, safe_for_terminal, safe_lines, shorten
from prompt_distillation.errors import ConfigError, OutputWriteError

if TYPE_CHECKING:  # what these import takes longer than --help may
    from rich.console import Console, RenderableType
    from rich.text import Text

    from prompt_distillation.engines import Completion, Engine, Sampling
    from prompt_distillation.engines.event_loop import BackgroundLoop
    from prompt_distillation.tasks import Task

DESCRIPTION = """Ask the teacher (with the prompt) and the student (without) the same questions.

  python scripts/chat.py --task tasks/persona --student_path models/persona
  python scripts/chat.py --teacher_model example-models/teacher     after the quickstart
  python scripts/chat.py --teacher_engine server --teacher_server_url http://localhost:8000/v1
  python scripts/chat.py --question "Where were you born?"      one question, then the end

Every question stands alone: neither model sees the ones before it."""

COMMANDS = """/prompt on|off                 whether the teacher gets the prompt
/model teacher|student|both    who answers
/regenerate                    the last question again, with another seed
/save FILE                     all answers so far, as JSON lines
/quit                          the end"""

USED = ("prompt_tokens", "completion_tokens", "seconds")
NO_RAY = ("ray_address", "ray_workers")
SHOWN_REASONING = 600


@dataclass(frozen=True, kw_only=True)
class ChatConfig(ModelsConfig):
    """Options of `chat.py`."""

    task: Path = option(Path("tasks/language"), "task folder, with task.yaml and the prompt")
    question: str | None = option(None, "ask only this, then end")
    teacher_engine: EngineConfig = block(
        EngineConfig, prefix="teacher_", omit=NO_RAY, gpu_memory_utilization=0.45
    )
    student_engine: EngineConfig = block(
        EngineConfig, prefix="student_", omit=NO_RAY, gpu_memory_utilization=0.45
    )
    student_sampling: SamplingConfig = block(
        SamplingConfig, prefix="student_", omit=("seed",), max_tokens=1024
    )
    costs: CostConfig = block(CostConfig, omit=("price_per_hour", "training_cost"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher.model_name == self.student.model_name == "none":
            raise ConfigError("--teacher_model and --student_path are both none; name one of them")


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A model that answers."""

    name: str
    engine: "Engine"
    sampling: "Sampling"
    prefill: str
    with_prompt: bool
    thinking: bool
    prices: TokenPriceConfig


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said to one question, or why it said nothing."""

    speaker: Speaker
    answer: str
    reasoning: str | None = None
    completion: "Completion | None" = None

    @property
    def cost(self) -> float | None:
        """In the currency of the prices."""
        if self.completion is None:
            return None
        return self.speaker.prices.cost(
            input_tokens=self.completion.prompt_tokens,
            cached_tokens=self.completion.cached_tokens or 0,
            output_tokens=self.completion.completion_tokens,
        )


def main(argv: Sequence[str]) -> int | None:
    """Talk as ``argv`` says, until the questions end."""
    config = parse_options(ChatConfig, argv, description=DESCRIPTION)
    from prompt_distillation.engines.event_loop import BackgroundLoop
    from prompt_distillation.report.terminal import make_console
    from prompt_distillation.tasks import load_task

    task = load_task(config.task)
    stack = AsyncExitStack()
    with BackgroundLoop() as loop:
        try:
            speakers = loop.run(_open_speakers(config, stack))
            chat = Chat(
                task=task, speakers=speakers, loop=loop, console=make_console(),
                currency=config.costs.currency,
            )  # fmt: skip
            if config.question is None:
                chat.talk(_typed_lines())
                return None
            return 0 if all(reply.completion for reply in chat.ask(config.question)) else 1
        finally:
            loop.run(stack.aclose())


async def _open_speakers(config: ChatConfig, stack: AsyncExitStack) -> list[Speaker]:
    """Load the models that are asked for; ``stack`` frees them."""
    from prompt_distillation.engines import Sampling, engine_options, open_engine
    from prompt_distillation.machine import choose_device

    costs, speakers = config.costs, []
    # Options first: a mistyped path shows before a model is loaded.
    parts = [
        (name, model, engine, sampling, engine_options(model, engine))
        for name, model, engine, sampling in (
            ("teacher", config.teacher, config.teacher_engine, config.teacher_sampling),
            ("student", config.student, config.student_engine, config.student_sampling),
        )
        if model.model_name != "none"
    ]
    for name, _, engine, sampling, options in parts:
        kind, is_teacher = engine.engine, name == "teacher"
        if kind == "auto" and choose_device("auto", engine.tensor_parallel_size) == "cpu":
            # One question at a time gains nothing from vLLM there, and it takes 20 s to start.
            kind = "transformers"
        speaker = Speaker(
            name=name,
            engine=await stack.enter_async_context(open_engine(kind, options)),
            sampling=Sampling.of(
                sampling,
                max_tokens=sampling.max_tokens or 1024,
                seed=config.teacher_sampling.seed,
            ),
            prefill=sampling.prefill or "",
            with_prompt=is_teacher,
            thinking=is_teacher and config.thinking,
            prices=costs.teacher_prices if is_teacher else costs.student_prices,
        )
        speakers.append(speaker)
    return speakers


def _typed_lines() -> Iterator[str]:
    """What the user types, or what comes through a pipe."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        yield encodable(line.strip())[0]


@dataclass(kw_only=True)
class Chat:
    """A conversation of single questions, and what was said so far."""

    task: "Task"
    speakers: list[Speaker]
    loop: "BackgroundLoop"
    console: "Console"
    currency: str
    _who: str = "both"
    _last: str | None = None
    _times_asked: int = 0
    _said: list[dict[str, object]] = field(default_factory=list)
    _saved: set[Path] = field(default_factory=set)

    def talk(self, lines: Iterator[str]) -> None:
        """Answer questions and obey commands until there are no more lines."""
        self._say("Ask a question, or /help.")
        for line in lines:
            if line == "/quit":
                return
            if line.startswith("/"):
                self._obey(*line.partition(" ")[::2])
            elif line:
                self.ask(line)

    def _obey(self, command: str, argument: str) -> None:
        match command, argument.strip():
            case "/prompt", "on" | "off" as state:
                self.speakers = [
                    replace(one, with_prompt=state == "on") if one.name == "teacher" else one
                    for one in self.speakers
                ]
                self._say(f"The teacher is asked {'with' if state == 'on' else 'without'} prompt.")
            case "/model", ("teacher" | "student" | "both") as who:
                if who != "both" and who not in [one.name for one in self.speakers]:
                    self._say(f"There is no {who} here.")
                    return
                self._who = who
                self._say(f"Who answers: {who}.")
            case "/regenerate", "":
                if self._last is None:
                    self._say("There is no question yet.")
                    return
                self.ask(self._last)
            case "/save", name if name:
                self._save(Path(name))
            case _:
                if command != "/help":
                    self._say(f"Unknown: {command} {argument}".rstrip())
                for line in COMMANDS.splitlines():
                    self._say(line)

    def _save(self, path: Path) -> None:
        if path.exists() and path not in self._saved:
            self._say(f"{path} is there already and is not replaced; choose another name.")
            return
        try:
            count = write_jsonl(path, self._said)
        except OutputWriteError as error:
            self._say(str(error))
            return
        self._saved.add(path)
        self._say(f"{count} answers saved to {path}.")

    def _say(self, line: str) -> None:
        self.console.print(safe_for_terminal(line), soft_wrap=True)

    def ask(self, question: str) -> list[Reply]:
        """Ask one question of everybody who answers, show what they say, and remember it."""
        self._times_asked = self._times_asked + 1 if question == self._last else 0
        self._last = question
        asked = [one for one in self.speakers if self._who in ("both", one.name)]
        replies = self._follow(question, asked)
        self.console.print(self._shown(replies))
        self._said += [self._record(question, reply) for reply in replies]
        return replies

    def _follow(self, question: str, asked: list[Speaker]) -> list[Reply]:
        """Ask, and on a terminal show what is written while it is written."""
        from rich.live import Live

        texts = {one.name: "" for one in asked}
        work = self._replies(question, asked, texts)
        if not self.console.is_terminal:
            return self.loop.run(work)
        # Its own thread looks at the texts, which the engines' thread replaces as they grow.
        with Live(
            get_renderable=lambda: self._panels(
                [(name, self._tail(text, len(asked)), "...") for name, text in texts.items()]
            ),
            console=self.console, refresh_per_second=10, transient=True,
        ):  # fmt: skip
            return self.loop.run(work)

    async def _replies(
        self, question: str, asked: list[Speaker], texts: dict[str, str]
    ) -> list[Reply]:
        import asyncio

        return list(await asyncio.gather(*(self._reply(one, question, texts) for one in asked)))

    async def _reply(self, speaker: Speaker, question: str, texts: dict[str, str]) -> Reply:
        from prompt_distillation.engines import Request, RequestFailedError

        request = Request(
            messages=self.task.conversation(question, with_prompt=speaker.with_prompt),
            sampling=replace(speaker.sampling, seed=speaker.sampling.seed + self._times_asked),
            prefill=speaker.prefill,
            on_text=lambda text: texts.update({speaker.name: text}),
        )
        try:
            completion = await speaker.engine.complete(request)
        except RequestFailedError as error:
            return Reply(speaker=speaker, answer=f"(no answer: {error})")
        from prompt_distillation.tasks import extract_answer

        cut = extract_answer(
            completion.text, finish_reason=completion.finish_reason, thinking=speaker.thinking,
            reasoning=completion.reasoning,
        )  # fmt: skip
        answer = cut.text
        if answer is None:
            answer = f"(no answer: {cut.reject_reason}) {completion.text}"
        return Reply(speaker=speaker, answer=answer, reasoning=cut.reasoning, completion=completion)

    def _record(self, question: str, reply: Reply) -> dict[str, object]:
        return {
            "question": question,
            "model": reply.speaker.name,
            "with_prompt": reply.speaker.with_prompt,
            "answer": reply.answer,
            "reasoning": reply.reasoning,
            **{name: getattr(reply.completion, name, None) for name in USED},
            "cost": reply.cost,
        }

    def _shown(self, replies: list[Reply]) -> "RenderableType":
        """The answers side by side on a terminal, one below the other in a pipe."""
        from rich.console import Group
        from rich.text import Text

        parts = []
        for reply in replies:
            text = Text()
            if reply.reasoning:
                text.append(
                    safe_lines(shorten(reply.reasoning, SHOWN_REASONING)) + "\n\n", style="dim"
                )
            text.append(safe_lines(reply.answer))
            prompt = "with" if reply.speaker.with_prompt else "without"
            parts.append((f"{reply.speaker.name}, {prompt} prompt", text, self._usage(reply)))
        if self.console.is_terminal:
            return self._panels(parts)
        return Group(
            *(
                Text("\n").join([Text(f"[{title}]"), text, Text(f"({usage})\n")])
                for title, text, usage in parts
            )
        )

    def _usage(self, reply: Reply) -> str:
        made = reply.completion
        if made is None:
            return "failed"
        parts = [f"{made.prompt_tokens} tokens in, {made.completion_tokens} out"]
        parts.append(f"{made.seconds:.2f} s")
        if reply.cost is not None:
            from prompt_distillation.report.sentences import money

            parts.append(f"{money(reply.cost)} {safe_for_terminal(self.currency)}")
        return ", ".join(parts)

    def _panels(self, parts: "list[tuple[str, Text, str]]") -> "RenderableType":
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table: Any = Table.grid(expand=True)
        for _ in parts:
            table.add_column(ratio=1)
        table.add_row(
            *(
                Panel(text, title=Text(title), subtitle=Text(usage), title_align="left")
                for title, text, usage in parts
            )
        )
        return table  # type: ignore[no-any-return]

    def _tail(self, text: str, columns: int) -> "Text":
        """The end of a text that is being written, as much as the screen has room for."""
        from rich.text import Text

        width, height = self.console.width // columns - 4, max(self.console.height - 4, 1)
        lines = Text(safe_lines(text[-width * height :])).wrap(self.console, max(width, 1))
        return Text("\n").join(lines[-height:])
