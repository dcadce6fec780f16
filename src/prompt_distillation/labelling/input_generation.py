"""Inputs by the thousand: from templates, or grown from a few examples by a model.

The model is asked through the machinery of labelling: each request is an input of its own whose
answer is a list of new inputs, one a line. Every completion is in the journal beside the output
before it is used, so that a run that was killed, or one that wants more inputs, continues with what
it has paid for.
"""

import hashlib
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation.config import flat
from prompt_distillation.config.generate_config import GenerateConfig
from prompt_distillation.config.label_config import LabelConfig, VoteConfig
from prompt_distillation.data.dataset_files import Shard, dataset_paths
from prompt_distillation.data.files import (
    dump_json,
    has_keys,
    read_json,
    refuse_to_overwrite,
    refuse_unsafe_outputs,
    sibling,
    write_json,
    write_jsonl,
)
from prompt_distillation.data.inputs import MAX_CHARACTERS, Input, read_inputs
from prompt_distillation.data.locks import hold_lock
from prompt_distillation.data.near_duplicates import SHINGLE_CHARACTERS, NearDuplicates
from prompt_distillation.data.question_templates import draw, read_templates
from prompt_distillation.data.splits import input_key, normalise
from prompt_distillation.data.text import encodable
from prompt_distillation.engines import Engine, engine_options, open_engine
from prompt_distillation.engines.event_loop import run
from prompt_distillation.errors import InputError
from prompt_distillation.examples import find_example
from prompt_distillation.labelling.dataset import Outcomes
from prompt_distillation.labelling.input_spool import WorkItem
from prompt_distillation.labelling.journal import Journal, digest_of, open_journal
from prompt_distillation.labelling.label_manifest import EarlierRun, teacher_identity
from prompt_distillation.labelling.labeller import Labeller, OpenTeacher
from prompt_distillation.labelling.progress import Progress
from prompt_distillation.provenance import provenance, sha256_of_file
from prompt_distillation.tasks import Task, load_task, task_files
from prompt_distillation.tasks.free_text import FreeText

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

ROUND = 256
"""Requests sent at most before their inputs are counted."""

VARIATIONS = (
    "write what a beginner would send",
    "be brief",
    "give more detail than the examples",
    "write what an expert would send",
    "choose rare cases that are easily forgotten",
    "write as people do in a hurry",
    "choose everyday cases",
    "use other words than the examples wherever you can",
    "choose borderline cases",
)
"""What changes from one request with the same examples to the next."""

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d{1,4}[.):])\s+")
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'"}


@dataclass(kw_only=True)
class Collected:
    """The inputs that are kept, and why others were not.

    Attributes:
        rows: as they are written: ``text``, ``group``, and ``category`` from templates.
        refused: ``duplicates``, ``near_duplicates`` and ``not_inputs`` -> how many.
    """

    near: NearDuplicates
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)

    def accepts(self, text: str) -> bool:
        """Whether a text is new; it is remembered then, and counted as refused otherwise."""
        folded = normalise(text)
        if folded in self.seen:
            self.refused["duplicates"] += 1
            return False
        if self.near.add_if_new(text):
            self.refused["near_duplicates"] += 1
            return False
        self.seen.add(folded)
        return True

    def coverage(self, by: str) -> dict[str, int]:
        """How many inputs each category or group has."""
        return dict(Counter(row[by] for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class GeneratedInputs:
    """The result of generating inputs.

    Attributes:
        output_file: the inputs; `create_data.py` takes them.
        coverage: category, or group where there are none -> inputs.
        refused: reason -> texts that were not kept.
        requests: made or found in the journal; 0 from templates.
        completion_tokens: that the model wrote in them.
    """

    output_file: Path
    manifest: Path
    count: int
    coverage: Mapping[str, int]
    refused: Mapping[str, int]
    requests: int = 0
    completion_tokens: int = 0


def generate_inputs(
    config: GenerateConfig,
    *,
    console: "Console | None" = None,
    open_teacher: OpenTeacher | None = None,
) -> GeneratedInputs:
    """Write inputs and their manifest; see `prompt_distillation.generate_inputs`.

    Args:
        config: where they come from, and how many.
        console: where the coverage is shown; None shows nothing.
        open_teacher: opens the model; None opens the one that the settings name.
    """
    source = find_example(config.templates or config.examples or Path())
    _check_outputs(config, source)
    collected = Collected(near=NearDuplicates(config.near_duplicates))
    requests, tokens = 0, 0
    if config.templates is not None:
        _fill_templates(config, source, collected)
    else:
        grower = _grow(config, source, collected, open_teacher=open_teacher)
        requests, tokens = grower.requests, grower.tokens
    by = "category" if config.templates is not None else "group"
    result = GeneratedInputs(
        output_file=config.output_file,
        manifest=sibling(config.output_file, "manifest"),
        count=len(collected.rows),
        coverage=collected.coverage(by),
        refused=dict(collected.refused),
        requests=requests,
        completion_tokens=tokens,
    )
    _write(config, collected, result, source=source)
    if console is not None:
        _show(result, collected, console, by=by)
    return result


def _check_outputs(config: GenerateConfig, source: Path) -> None:
    paths = dataset_paths(config.output_file)
    manifest = _manifest_of(paths.manifest)
    hashes = [manifest.get("inputs_sha256"), manifest.get("replaced_sha256")]
    of_journal = EarlierRun(paths).owner_of(Shard())

    def is_ours(path: Path) -> bool:
        if path == paths.dataset:
            return path.is_file() and sha256_of_file(path) in hashes
        return bool(manifest) if path == paths.manifest else of_journal(path)

    outputs = [paths.dataset, paths.manifest]
    read = [source, *(task_files(config.grow.task) if config.grow.task else [])]
    if config.examples is not None:
        outputs += [paths.journal(Shard()), paths.lock(Shard())]
        read += [Path(name) for name in [config.model.model_name] if Path(name).is_dir()]
    refuse_unsafe_outputs(outputs, read, is_ours=is_ours)
    refuse_to_overwrite([paths.dataset], overwrite=config.overwrite)


def _manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of an earlier run; empty where there is none, or it is of something else."""
    return read_json(path) if has_keys(path, "inputs_sha256", "refused") else {}


# --- from templates ----------------------------------------------------------------------------


def _fill_templates(config: GenerateConfig, source: Path, collected: Collected) -> None:
    templates = read_templates(source)
    for text, category, template in draw(
        templates, seed=config.sampling.seed, keep=collected.accepts
    ):
        collected.rows.append({"text": text, "category": category, "group": template})
        if len(collected.rows) == config.num_inputs:
            break
    _refuse_too_few(
        config,
        collected,
        why=f"the templates of {source} have {templates.combinations:,} texts",
        remedy="add templates or entries to the lists",
    )
    counts = collected.coverage("category").values()
    if max(counts) > min(counts) + 1:
        logger.warning(
            "the categories are not balanced (%d to %d inputs): some have no more texts",
            min(counts), max(counts),
        )  # fmt: skip


def _refuse_too_few(config: GenerateConfig, collected: Collected, *, why: str, remedy: str) -> None:
    """Raise `InputError` unless there are as many inputs as were asked for."""
    found = len(collected.rows)
    if found < config.num_inputs:
        raise InputError(
            f"only {found:,} of {config.num_inputs:,} inputs could be made: {why}, and "
            f"{collected.refused['near_duplicates']:,} were refused as near-duplicates, "
            f"{collected.refused['duplicates']:,} as duplicates; {remedy}, ask for --num_inputs "
            f"{max(found, 1)}, or raise --near_duplicates (now {config.near_duplicates:g})"
        )


# --- from a model ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """Examples that are shown together, and the group of what grows from them."""

    name: str
    texts: tuple[str, ...]


def example_sets(examples: Sequence[str], *, size: int, seed: int) -> list[ExampleSet]:
    """Deal the examples, shuffled, into sets that share none: so no group knows another's."""
    shuffled = list(examples)
    random.Random(f"examples:{seed}").shuffle(shuffled)
    count = max(1, len(shuffled) // size)
    return [
        ExampleSet(name=f"examples-{number:03d}", texts=tuple(shuffled[number::count]))
        for number in range(count)
    ]


def read_list(text: str) -> Iterator[str]:
    r"""The inputs of an answer: its lines, without list marks and quotation marks around them.

    >>> list(read_list('Here are two:\n\n1. "Who was Neefe?"\n2. Why Bonn?'))
    ['Who was Neefe?', 'Why Bonn?']
    """
    for line in text.splitlines():
        line = _MARK.sub("", line).strip()
        if len(line) > 1 and _QUOTES.get(line[0]) == line[-1]:
            line = line[1:-1].strip()
        if line and not line.endswith(":") and set(line) - set("-=*_`#"):
            yield line


def _grow(
    config: GenerateConfig,
    source: Path,
    collected: Collected,
    *,
    open_teacher: OpenTeacher | None,
) -> "_Grower":
    """Ask the model until there are enough inputs; returns who asked."""
    examples = [item.text for item in read_inputs(source, fields=config.fields)]
    sets = example_sets(
        [text for text in examples if collected.accepts(text)],
        size=config.grow.examples_per_request, seed=config.sampling.seed,
    )  # fmt: skip
    collected.refused.clear()  # of the examples
    for number, one in enumerate(sets):
        logger.info("examples-%03d: %d examples", number, len(one.texts))
        collected.rows += [{"text": text, "group": one.name} for text in one.texts]
    del collected.rows[config.num_inputs :]
    grower = _ask_model(config, sets, collected, open_teacher)
    _refuse_too_few(
        config,
        collected,
        why=f"the last {grower.idle} of {grower.requests:,} requests brought nothing new",
        remedy="add examples, raise --temperature or --idle_requests (what was paid for is in the "
        "journal and is used again)",
    )
    return grower


def _ask_model(
    config: GenerateConfig,
    sets: Sequence[ExampleSet],
    collected: Collected,
    open_teacher: OpenTeacher | None,
) -> "_Grower":
    """Grow the example sets under the lock and the journal of the output."""
    task = _generation_task(config)
    label_config = LabelConfig(
        output_file=config.output_file,
        model=config.model,
        sampling=config.sampling,
        votes=VoteConfig(thinking=config.grow.thinking, max_retries=config.grow.max_retries),
        engine=config.engine,
    )
    identity = teacher_identity(label_config, task)
    paths = dataset_paths(config.output_file)
    teacher = open_teacher or (
        lambda: open_engine(
            config.engine.engine,
            engine_options(config.model, config.engine, seed=config.sampling.seed),
        )
    )
    with (
        hold_lock(paths.lock(Shard())),
        open_journal(identity, writable=paths.journal(Shard()), others=()) as journal,
    ):
        grower = _Grower(
            config=config, sets=sets, collected=collected, settings=digest_of(identity),
            labeller_for=lambda outcomes: _labeller(
                task, label_config, journal=journal, outcomes=outcomes
            ),
        )  # fmt: skip
        run(grower.grow(teacher))
    return grower


def _labeller(task: Task, config: LabelConfig, *, journal: Journal, outcomes: Outcomes) -> Labeller:
    from rich.console import Console

    # Its lines count answers; here the number of inputs they bring is what matters.
    progress = Progress(0, interval_seconds=5.0, console=Console(quiet=True))
    return Labeller(task=task, config=config, journal=journal, outcomes=outcomes, progress=progress)


def _generation_task(config: GenerateConfig) -> Task:
    """A task whose prompt asks for new inputs, and whose answers are lists, one a line."""
    about = load_task(config.grow.task).prompt if config.grow.task else None
    prompt = _render(
        "generation_prompt",
        inputs_per_request=config.grow.inputs_per_request,
        instructions=config.grow.instructions,
        task_prompt=about,
    )
    return Task(name="generate-inputs", prompt=prompt, answers=FreeText(), path=Path())


def _render(name: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prompt_distillation.labelling", "templates"),
        undefined=StrictUndefined,
    )
    return environment.get_template(f"{name}.md.jinja").render(**values).strip()


@dataclass(kw_only=True)
class _Grower:
    """Plans requests, and takes the new inputs out of their answers in the order of the requests.

    What is kept depends on that order only, not on what finished first or in which run.

    Attributes:
        requests: whose answers were taken.
        tokens: that the model wrote, also in requests whose answers were not needed.
        idle: of them, how many in a row brought nothing new.
    """

    config: GenerateConfig
    sets: Sequence[ExampleSet]
    collected: Collected
    settings: str
    labeller_for: Callable[[Outcomes], Labeller]
    requests: int = 0
    tokens: int = 0
    idle: int = 0

    async def grow(self, open_teacher: OpenTeacher) -> None:
        """Send rounds of requests until there are enough inputs or nothing new comes."""
        async with AsyncExitStack() as stack:
            engine: Engine | None = None
            while self._wanted > 0 and self.idle < self.config.grow.idle_requests:
                items = [self._item(self.requests + more) for more in range(self._round_size())]
                # Outcomes cannot be added to once they are read: each round has its own.
                with Outcomes(self.config.output_file.parent) as outcomes:
                    labeller = self.labeller_for(outcomes)
                    if work := list(labeller.unfinished(items)):
                        if engine is None:
                            engine = await stack.enter_async_context(open_teacher())
                        await labeller.ask_for(engine, work)
                    for item in items:
                        outcome, _ = outcomes.take(item.key)
                        self.tokens += outcome["completion_tokens"]
                        self._take(item, outcome["teacher_answer"])
                logger.info(
                    "%d of %d inputs after %d requests; refused: %s",
                    len(self.collected.rows), self.config.num_inputs, self.requests,
                    ", ".join(f"{n} {why}" for why, n in self.collected.refused.items()) or "none",
                )  # fmt: skip

    @property
    def _wanted(self) -> int:
        return self.config.num_inputs - len(self.collected.rows)

    def _round_size(self) -> int:
        """Requests that bring about as many inputs as are missing, by what the earlier ones did."""
        grown = len(self.collected.rows) - sum(len(one.texts) for one in self.sets)
        each = grown / self.requests if self.requests else self.config.grow.inputs_per_request
        return min(ROUND, max(1, round(self._wanted / max(each, 0.1))))

    def _item(self, number: int) -> WorkItem:
        """Request ``number``: the sets take turns, then the variations do."""
        one = self.sets[number % len(self.sets)]
        texts = list(one.texts)
        random.Random(f"{self.config.sampling.seed}:{number}").shuffle(texts)
        message = _render(
            "generation_request",
            examples=[" ".join(text.split()) for text in texts],
            inputs_per_request=self.config.grow.inputs_per_request,
            variation=VARIATIONS[number // len(self.sets) % len(VARIATIONS)],
        )
        # The number is in the key: the same message, sent again, is another request.
        key = input_key(message, settings=f"{self.settings}:{number}")
        return WorkItem(
            Input(index=number, text=message, group=one.name), key, shard=0, held_out=False
        )

    def _take(self, item: WorkItem, answer: str | None) -> None:
        """Keep what is new in the answer to a request."""
        if self._wanted <= 0 or self.idle >= self.config.grow.idle_requests:
            return
        before = len(self.collected.rows)
        self.requests += 1
        for text in read_list(answer or ""):
            text = encodable(text)[0]
            if len(text) > MAX_CHARACTERS:
                self.collected.refused["not_inputs"] += 1
            elif self._wanted > 0 and self.collected.accepts(text):
                self.collected.rows.append({"text": text, "group": item.input.group})
        self.idle = 0 if len(self.collected.rows) > before else self.idle + 1


# --- the result --------------------------------------------------------------------------------


def _write(
    config: GenerateConfig, collected: Collected, result: GeneratedInputs, *, source: Path
) -> None:
    """Write the manifest, then the inputs: inputs without a manifest would look like no one's."""
    lines = "".join(dump_json(row) + "\n" for row in collected.rows)
    old = config.output_file
    manifest = {
        "inputs_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "replaced_sha256": sha256_of_file(old) if old.is_file() else None,
        "source": {"path": str(source), "sha256": sha256_of_file(source)},
        "counts": {
            "inputs": result.count,
            "requests": result.requests,
            "completion_tokens": result.completion_tokens,
        },
        "coverage": result.coverage,
        "groups": collected.coverage("group"),
        "refused": result.refused,
        "near_duplicates": {
            "measure": f"Jaccard similarity of the sets of {SHINGLE_CHARACTERS} characters in a "
            "row, of normalised text",
            "threshold": config.near_duplicates,
        },
        "config": flat(config),
        "provenance": provenance(),
    }
    write_json(result.manifest, manifest)
    write_jsonl(config.output_file, collected.rows)


def _show(result: GeneratedInputs, collected: Collected, console: "Console", *, by: str) -> None:
    """Print how many inputs each category or group has."""
    from rich.table import Table
    from rich.text import Text

    words = Counter[str]()
    groups: dict[str, set[str]] = {}
    for row in collected.rows:
        words[row[by]] += len(row["text"].split())
        groups.setdefault(row[by], set()).add(row["group"])
    table = Table(title="inputs", title_justify="left")
    for name in (by, "groups", "inputs", "share", "words on average"):
        table.add_column(name, justify="left" if name == by else "right")
    for name, count in result.coverage.items():
        table.add_row(
            Text(name), str(len(groups[name])), f"{count:,}", f"{count / result.count:.1%}",
            f"{words[name] / count:.1f}",
        )  # fmt: skip
    console.print(table)
    refused = ", ".join(
        f"{count:,} {why.replace('_', '-')}" for why, count in result.refused.items()
    )
    asked = f", in {result.requests:,} requests" if result.requests else ""
    console.print(
        f"{result.count:,} inputs{asked}; refused: {refused or 'none'}\nwritten to "
        f"{result.output_file}", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
