"""Recipes and task files: what YAML can do that nobody means is an error of one line."""

from collections.abc import Iterator

from hostile_cases.fixtures import input_lines
from hostile_cases.scripted_server import labels
from hostile_cases.text_is_data import Act, label, serving
from hostile_cases.trial import Case, Trial, Word, require

SEED_TAKERS = ("create_data", "train", "evaluate", "compare")
TASK_TAKERS = ("create_data", "evaluate", "compare", "review_labels")

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)

DOCUMENTS: dict[str, tuple[str | bytes, tuple[Word, ...]]] = {
    "twice-a-key": ("seed: 1\nseed: 2\n", ("seed",)),
    "twice-apart": ("seed: 1\nmax_samples: 5\nseed: 1\n", ("seed",)),
    "twice-quoted": ("seed: 1\n'seed': 2\n", ("seed",)),
    "twice-flow": ("{seed: 1, seed: 2}\n", ("seed",)),
    "merge": ("x: &x {seed: 1}\n<<: *x\n", ()),
    "python-object": ("seed: !!python/object/apply:os.getcwd []\n", ()),
    "python-name": ("seed: !!python/name:os.system\n", ()),
    "tag-binary": ("task: !!binary aGVsbG8=\n", ()),
    "tag-set": ("task: !!set {a, b}\n", ()),
    "tag-omap": ("task: !!omap [a: 1]\n", ()),
    "tag-timestamp": ("task: !!timestamp 2026-01-01\n", ()),
    "tag-int": ("seed: !!int abc\n", ()),
    "tag-float": ("seed: !!float abc\n", ()),
    "tag-bool": ("seed: !!bool abc\n", ()),
    "tag-unknown": ("seed: !mine 5\n", ()),
    "tag-null": ("!!null seed: 5\n", ()),
    "date": ("task: 2026-01-01\n", ()),
    "bad-date": ("task: 2026-99-99\n", ()),
    "bad-time": ("task: 2026-01-01 99:99:99\n", ()),
    "bad-date-key": ("2026-99-99: 1\n", ()),
    "huge-integer": ("seed: " + "9" * 5000 + "\n", ()),
    "huge-hex": ("seed: 0x" + "f" * 5000 + "\n", ()),
    "huge-octal": ("seed: 0" + "7" * 6000 + "\n", ()),
    "huge-sexagesimal": ("seed: 1" + ":59" * 5000 + "\n", ()),
    "huge-float": ("seed: 1e400\n", ()),
    "infinity": ("seed: .inf\n", ("seed",)),
    "not-a-number": ("seed: .nan\n", ("seed",)),
    "huge-key": ("9" * 5000 + ": 1\n", ()),
    "number-key": ("5: 1\n", ()),
    "null-key": ("~: 1\n", ()),
    "true-key": ("on: 1\n", ()),
    "list-key": ("[a, b]: 1\n", ()),
    "map-key": ("{a: b}: 1\n", ()),
    "tab": ("seed:\t1\n\tmax_samples: 2\n", ()),
    "unclosed": ("seed: [1, 2\n", ()),
    "list": ("- seed\n- 1\n", ()),
    "text": ("seed\n", ()),
    "two-documents": ("seed: 1\n---\nseed: 2\n", ()),
    "nul": ("seed: 1\0\n", ()),
    "control": ("seed: \x1b[31m1\n", ()),
    "not-utf8": (b"seed: \xff\xfe\n", ()),
    "utf-16-le": ("seed: 1\n".encode("utf-16-le"), ()),
    "deep": ("seed: " + "[" * 5000 + "]" * 5000 + "\n", ()),
    "deep-map": ("seed: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n", ()),
    "bomb": (BOMB + "seed: *h\n", ()),
    "cycle": ("seed: &s [*s]\n", ()),
    "cycle-map": ("&s seed: *s\n", ()),
    "unknown-alias": ("seed: *nobody\n", ()),
    "unknown-key": ("seeed: 1\n", ("seeed",)),
    "binary": (bytes(range(256)), ()),
    "value-list": ("seed: [1]\n", ("seed",)),
    "value-map": ("seed: {a: 1}\n", ("seed",)),
    "value-text": ("seed: one\n", ("seed",)),
    "value-true": ("seed: true\n", ("seed",)),
    "value-null": ("seed: null\n", ("seed",)),
    "value-fraction": ("seed: 1.5\n", ("seed",)),
    "value-date": ("seed: 2026-01-01\n", ("seed",)),
    "value-multiline": ("seed: |\n  1\n  2\n", ("seed",)),
    "half-character": ('task: "\\ud83d"\n', ()),
}
"""A recipe that no command may take, and words of its error."""

KIND = "kind: classification\n"

TASK_FILES: dict[str, tuple[str | bytes, tuple[Word, ...]]] = {
    "twice-a-label": ("labels: {de: German, fr: French, de: Dutch}\n", ("de",)),
    "twice-in-list": ("labels: [de, fr, de]\n", ("de",)),
    "twice-kind": ("kind: classification\nlabels: [de, fr]\n", ("kind",)),
    "twice-labels": ("labels: [de, fr]\nlabels: [en, es]\n", ("labels",)),
    "label-no": ("labels: [no, de]\n", ("label",)),
    "label-number": ("labels: [1, 2]\n", ("label",)),
    "label-date": ("labels: [2026-01-01, 2026-01-02]\n", ("label",)),
    "label-null": ("labels: [null, de]\n", ("label",)),
    "label-list": ("labels: [[de], [fr]]\n", ("label",)),
    "label-huge": ("labels: {" + "9" * 5000 + ": x, de: y}\n", ()),
    "label-one": ("labels: [de]\n", ("label",)),
    "label-none": ("labels: []\n", ("label",)),
    "labels-text": ("labels: de\n", ("label",)),
    "labels-number": ("labels: 5\n", ("label",)),
    "labels-date": ("labels: 2026-01-01\n", ("label",)),
    "meaning-list": ("labels: {de: [German], fr: French}\n", ("de",)),
    "meaning-map": ("labels: {de: {a: 1}, fr: French}\n", ("de",)),
    "meaning-bytes": ("labels: {de: !!binary aGVsbG8=, fr: French}\n", ("de",)),
    "pattern-number": ("labels: [de, fr]\nanswer_pattern: 5\n", ("answer_pattern",)),
    "pattern-list": ("labels: [de, fr]\nanswer_pattern: ['(x)']\n", ("answer_pattern",)),
    "pattern-date": ("labels: [de, fr]\nanswer_pattern: 2026-01-01\n", ("answer_pattern",)),
    "pattern-true": ("labels: [de, fr]\nanswer_pattern: true\n", ("answer_pattern",)),
    "pattern-bytes": ("labels: [de, fr]\nanswer_pattern: !!binary aGVsbG8=\n", ("answer_pattern",)),
    "name-list": ("labels: [de, fr]\nname: [a]\n", ("name",)),
    "name-map": ("labels: [de, fr]\nname: {a: 1}\n", ("name",)),
    "name-bytes": ("labels: [de, fr]\nname: !!binary aGVsbG8=\n", ("name",)),
    "prompt-list": (
        "labels: [de, fr]\nprompt_file: [prompt.md]\n",
        (("prompt_file", "prompt file"),),
    ),
    "prompt-number": ("labels: [de, fr]\nprompt_file: 5\n", (("prompt_file", "prompt file"),)),
    "prompt-outside": ("labels: [de, fr]\nprompt_file: ../nothing.md\n", ("nothing.md",)),
    "prompt-folder": ("labels: [de, fr]\nprompt_file: .\n", ("prompt",)),
    "kind-list": ("kind: [classification]\nlabels: [de, fr]\n", ("kind",)),
    "kind-null": ("kind:\nlabels: [de, fr]\n", ("kind",)),
    "unknown-key": ("labels: [de, fr]\nlabel: [x]\n", ("'label'", "label")),
}
"""A task.yaml beside ``kind: classification`` that no command may take."""


def cases() -> Iterator[Case]:
    """All of them: recipes by each command, task files by those that read tasks."""
    for name, (content, words) in DOCUMENTS.items():
        takers = TASK_TAKERS if b"task" in _bytes(content) else SEED_TAKERS
        # Each document by two commands in turn: they share one reader, or should.
        for turn in (0, 1):
            command = takers[(len(name) + turn) % len(takers)]
            act = _recipe(command, content, words)
            yield Case(group="yaml", name=f"recipe/{name}-{command}", act=act)
        if not words:
            yield Case(group="yaml", name=f"task/{name}", act=_task_file(content, words))
    for name, (content, words) in TASK_FILES.items():
        kind = "" if name in ("kind-list", "kind-null") else KIND
        act = _task_file(content, words, kind)
        yield Case(group="yaml", name=f"task/{name}", act=act)
    for name, value in TYPES.items():
        for command, key in KEYS:
            act = _recipe(command, f"{key}: {value}\n", (key,))
            yield Case(group="yaml", name=f"type/{command}-{key}-{name}", act=act)


TYPES = {"list": "[1, 2]", "map": "{a: 1}", "date": "2026-01-01", "bytes": "!!binary aGVsbG8="}
KEYS = (
    ("create_data", "task"), ("create_data", "input_file"), ("create_data", "model_name"),
    ("create_data", "temperature"), ("create_data", "merge"), ("create_data", "engine"),
    ("train", "train_file"), ("train", "lora_rank"), ("train", "learning_rate"),
    ("train", "use_lora"), ("train", "output_dir"), ("evaluate", "test_file"),
    ("evaluate", "min_accuracy"), ("evaluate", "quiet"), ("compare", "cells"),
    ("compare", "price_per_hour"), ("report", "plots_dir"), ("export", "num_inputs"),
    ("review_labels", "show"),
)  # fmt: skip


def _recipe(command: str, content: str | bytes, words: tuple[Word, ...]) -> Act:
    def act(trial: Trial) -> None:
        trial.write("c.yaml", content)
        terminal = command == "review_labels"
        outcome = trial.run(command, "--config=c.yaml", seconds=30.0, terminal=terminal)
        outcome.refuses(*(words or (("c.yaml", "seed", "task", "unknown flag or key"),)))

    return act


def _task_file(content: str | bytes, words: tuple[Word, ...], kind: str = KIND) -> Act:
    def act(trial: Trial) -> None:
        trial.task("task", prompt="Answer.")
        trial.write("task/task.yaml", kind.encode() + _bytes(content))
        trial.write("in.txt", input_lines(2))
        server = serving(trial, labels())
        outcome = label(trial, server, "--task=task", seconds=30.0)
        outcome.refuses("task", *words)
        require(not server.asked, f"refused after {len(server.asked)} paid requests")

    return act


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
