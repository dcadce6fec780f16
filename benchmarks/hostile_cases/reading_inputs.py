"""Inputs are read strictly: what a table, an encoding or a row does not say is not guessed."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hostile_cases.fixtures import chat_row, input_lines, train_flags
from hostile_cases.scripted_server import ScriptedServer, labels
from hostile_cases.text_is_data import TASK, Act, label, read_rows, serving
from hostile_cases.trial import Case, Outcome, Trial, Word, require

Content = bytes | str


def cases() -> Iterator[Case]:
    """All of them."""
    for group, named in (
        ("tables", dict(_tables())),
        ("encodings", dict(_encodings())),
        ("rows", dict(_rows())),
        ("groups", dict(_groups())),
    ):
        for name, act in named.items():
            yield Case(group=group, name=name, act=act)


def _texts(trial: Trial) -> list[str]:
    """What was labelled, as the dataset says."""
    rows = [*read_rows(trial.folder / "out.jsonl"), *read_rows(trial.folder / "out.heldout.jsonl")]
    return [row["messages"][-2]["content"] for row in rows]


def _label_file(trial: Trial, name: str, *flags: str) -> tuple[Outcome, ScriptedServer]:
    server = serving(trial, labels())
    return label(trial, server, f"--input_file={name}", *flags), server


def _evaluate_file(trial: Trial, name: str, *flags: str) -> Outcome:
    server = serving(trial, labels())
    return trial.run(
        "evaluate", "--engine=server", f"--server_url={server.url}", "--model_path=m", TASK,
        f"--test_file={name}", "--split=all", "--output_file=result.json", *flags,
    )  # fmt: skip


def _evaluated_texts(trial: Trial) -> list[str]:
    result = json.loads((trial.folder / "result.json").read_text())
    return [row["text"] for row in result["predictions"]]


def _refused(name: str, content: Content, *words: Word) -> Iterator[tuple[str, Act]]:
    """The same file to the commands that read inputs: refused before anything is paid for."""

    def labelling(trial: Trial) -> None:
        trial.write(name, content)
        outcome, server = _label_file(trial, name)
        outcome.refuses(name, *words)
        require(not server.asked, f"refused after {len(server.asked)} paid requests")

    def evaluating(trial: Trial) -> None:
        trial.write(name, content)
        _evaluate_file(trial, name).refuses(name, *words)

    yield "create_data", labelling
    yield "evaluate", evaluating


def _read(name: str, content: Content, texts: list[str], *words: Word) -> Iterator[tuple[str, Act]]:
    """The same file to both: read as ``texts``, or refused with ``words`` where there are any."""

    def checked(outcome: Outcome, found: Callable[[], list[str]]) -> None:
        if outcome.code and words:
            outcome.refuses(*words)
            return
        outcome.works()
        require(sorted(found()) == sorted(texts), f"read as {found()}, not {texts}")

    def labelling(trial: Trial) -> None:
        trial.write(name, content)
        outcome, _ = _label_file(trial, name, "--held_out=0")
        checked(outcome, lambda: _texts(trial))

    def evaluating(trial: Trial) -> None:
        trial.write(name, content)
        checked(_evaluate_file(trial, name), lambda: _evaluated_texts(trial))

    yield "create_data", labelling
    yield "evaluate", evaluating


# --- csv and tsv

BAD_TABLES: dict[str, tuple[str, tuple[Word, ...]]] = {
    "more-fields": ("text{d}label\nHello{d}world{d}de\n", ("line 2",)),
    "more-fields-later": ("text{d}label\nHello{d}de\n" * 1 + "a{d}de\nb{d}c{d}de\n", ("line 4",)),
    "sentence-unquoted": ("text\nGut\nHello{d} world{d} how are you\n", ("line 3",)),
    "unclosed-quote": ('text{d}label\na{d}de\n"b{d}de\nc{d}de\nd{d}de\n', ("line 3",)),
    "unclosed-at-end": ('text{d}label\na{d}de\nb{d}"de', ("line 3",)),
    "only-quote": ('text\n"', ("line 2",)),
    "after-closing-quote": ('text{d}label\na{d}de\n"b"c{d}de\n', ("line 3",)),
    "unclosed-header": ('"text{d}label\na{d}de\n', ("line 1",)),
    "too-few-fields": ("label{d}text\nde{d}a\nde\n", ("line 3", "line 3: no text")),
    "no-text-column": ("sentence{d}label\na{d}de\n", ("text",)),
    "twice-the-column": ("text{d}text\na{d}b\n", ("text",)),
    "twice-another": ("text{d}label{d}label\na{d}de{d}fr\n", ("label",)),
    "header-only": ("text{d}label\n", ("no inputs", "holds no", "empty")),
    "nul": ("text{d}label\na\0b{d}de\n", ("line 2", "NUL")),
    "no-header": ("Guten Tag{d}de\nAuf Wiedersehen{d}de\n", ("text",)),
    "header-upper-case": ("Text{d}Label\na{d}de\n", ("text",)),
    "blank-text": ("text{d}label\na{d}de\n{d}de\n", ("line 3",)),
    "spaces-text": ("text{d}label\na{d}de\n   {d}de\n", ("line 3",)),
    "unknown-label": ("text{d}label\na{d}de\nb{d}xx\n", ("xx",)),
    "empty-file": ("", ("no inputs", "holds no", "empty")),
    "line-feeds-only": ("\n\n\n", ("no inputs", "holds no", "empty", "text")),
}
GOOD_TABLES: dict[str, tuple[str, list[str]]] = {
    "plain": ("text{d}label\nGuten Tag{d}de\nAdieu{d}fr\n", ["Guten Tag", "Adieu"]),
    "quoted": ('text{d}label\n"a{d} b"{d}de\n', ["a{d} b"]),
    "quoted-line-feed": ('text{d}label\n"a\nb"{d}de\n', ["a\nb"]),
    "doubled-quote": ('text{d}label\n"er sagt ""ja"""{d}de\n', ['er sagt "ja"']),
    "crlf": ("text{d}label\r\nGuten Tag{d}de\r\n", ["Guten Tag"]),
    "mark": ("\ufefftext{d}label\nGuten Tag{d}de\n", ["Guten Tag"]),
    "no-last-line-feed": ("text{d}label\nGuten Tag{d}de", ["Guten Tag"]),
    "other-columns": ("id{d}text{d}note\n1{d}Guten Tag{d}x\n", ["Guten Tag"]),
    "blank-line": ("text{d}label\na eins{d}de\n\nb zwei{d}de\n", ["a eins", "b zwei"]),
    "line-separator": ("text{d}label\na\u2028b{d}de\n", ["a\u2028b"]),
    "formula": ("text{d}label\n=1+1{d}de\n", ["=1+1"]),
}


def _tables() -> Iterator[tuple[str, Act]]:
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        for name, (content, choices) in BAD_TABLES.items():
            found = _refused(f"in.{kind}", content.replace("{d}", delimiter), choices)
            yield from ((f"{command}/{name}.{kind}", act) for command, act in found)
        for name, (content, texts) in GOOD_TABLES.items():
            wanted = [text.replace("{d}", delimiter) for text in texts]
            found = _read(f"in.{kind}", content.replace("{d}", delimiter), wanted)
            yield from ((f"{command}/{name}.{kind}", act) for command, act in found)
    # In a tsv of the wild a quote is a character, and nothing escapes.
    stray = 'text\tlabel\n"Ja\tde\nNein\tde\nDoch" sagt er\tde\nGut\tde\n'
    inner = 'text\tlabel\ner sagt "ja" zu\tde\nNein\tde\n'
    for command, act in _refused("in.tsv", stray, "line 2"):
        yield f"{command}/stray-quote.tsv", act
    for command, act in _read("in.tsv", inner, ['er sagt "ja" zu', "Nein"], "line 2"):
        yield f"{command}/inner-quote.tsv", act
    for command, act in _read("in.csv", inner.replace("\t", ","), ['er sagt "ja" zu', "Nein"],
                              "line 2"):  # fmt: skip
        yield f"{command}/inner-quote.csv", act
    for name, content in (("semicolon", "text;label\na;de\n"), ("pipe", "text|label\na|de\n")):
        for command, act in _refused("in.csv", content, "text"):
            yield f"{command}/{name}.csv", act


# --- encodings

GERMAN = "Grüße aus Köln"
SENTENCES = [f"{GERMAN}, Nummer {number}" for number in range(3)]
ASCII = [f"Guten Tag Nummer {number}" for number in range(3)]


def _as_format(kind: str, texts: list[str], line_end: str = "\n") -> str:
    if kind == "txt":
        lines = texts
    elif kind == "jsonl":
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    else:
        delimiter = "," if kind == "csv" else "\t"
        lines = ["text" + delimiter + "label"]
        lines += [
            f'"{text}"{delimiter}de' if "," in text else f"{text}{delimiter}de" for text in texts
        ]
    return "".join(line + line_end for line in lines)


def _zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in.txt", content)
    return packed.getvalue()


PACKED: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "gzip": (lambda content: gzip.compress(content, mtime=0), ("gzip", "gunzip", "compressed")),
    "zip": (_zipped, ("zip", "compressed")),
    "bz2": (bz2.compress, ("bz", "compressed", "not UTF-8")),
    "xz": (lzma.compress, ("xz", "compressed", "not UTF-8")),
    "pdf": (
        lambda content: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + content,
        ("pdf", "not UTF-8", "not JSON"),
    ),
    "binary": (lambda content: bytes(range(256)) * 8, ("not UTF-8", "binary", "NUL")),
    "parquet": (
        lambda content: b"PAR1\x15\x04" + content + b"PAR1",
        ("parquet", "binary", "json", "nul", "text", "control", "character"),
    ),
}
ENCODED = {
    "utf-16": "utf-16", "utf-16-le": "utf-16-le", "utf-16-be": "utf-16-be", "utf-32": "utf-32",
    "utf-32-le": "utf-32-le",
}  # fmt: skip


def _encodings() -> Iterator[tuple[str, Act]]:
    for kind in ("txt", "jsonl", "csv", "tsv"):
        name = f"in.{kind}"
        named: dict[str, Iterator[tuple[str, Act]]] = {}
        for texts, which in ((SENTENCES, ""), (ASCII, "-ascii")):
            for encoding, codec in ENCODED.items():
                content = _as_format(kind, texts).encode(codec)
                hint = ("UTF-16", "UTF-32", "utf16", "NUL")
                named[f"{encoding}{which}"] = _read(name, content, texts, hint)
            old_mac = _as_format(kind, texts, "\r").encode()
            named[f"cr-only{which}"] = _read(name, old_mac, texts, ("CR", "carriage"))
            windows = _as_format(kind, texts, "\r\n").encode("utf-8-sig")
            named[f"crlf-mark{which}"] = _read(name, windows, texts)
        for encoding in ("latin-1", "cp1252", "cp437"):
            content = _as_format(kind, SENTENCES).encode(encoding)
            named[encoding] = _refused(name, content, "not UTF-8", "line")
        chinese = _as_format(kind, ["你好世界", "早上好"])
        for encoding in ("gb18030", "shift-jis", "big5"):
            content = chinese.encode(encoding, "replace")
            named[encoding] = _refused(name, content, "not UTF-8", "line")
        for packing, (pack, words) in PACKED.items():
            if packing == "parquet" and kind == "txt":
                continue  # a text may hold control characters
            content = pack(_as_format(kind, ASCII).encode())
            if packing == "gzip":
                named[packing] = _read(name, content, ASCII, words)
            else:
                named[packing] = _refused(name, content, words)
        cut = _as_format(kind, SENTENCES).encode()[
            : _as_format(kind, SENTENCES).encode().index(b"\xc3") + 1
        ]
        named["cut-character"] = _refused(name, cut, ("not UTF-8", "line"))
        for encoding, found in named.items():
            yield from ((f"{command}/{encoding}.{kind}", act) for command, act in found)
    yield from _encoded_rows()
    yield from _encoded_beside()


def _encoded_rows() -> Iterator[tuple[str, Act]]:
    """A training file in other encodings."""
    rows = "".join(chat_row(f"{GERMAN} {number}") for number in range(3))
    contents: dict[str, tuple[bytes, Word]] = {
        encoding: (rows.encode(codec), ("UTF-16", "UTF-32", "NUL"))
        for encoding, codec in ENCODED.items()
    }
    contents |= {
        "latin-1": (rows.encode("latin-1"), "not UTF-8"),
        "cr-only": (rows.replace("\n", "\r").encode(), ("CR", "carriage")),
        "gzip": (gzip.compress(rows.encode(), mtime=0), ("gzip", "gunzip", "compressed")),
        "zip": (_zipped(rows.encode()), ("zip", "compressed")),
    }

    def act_on(content: bytes, words: Word) -> Act:
        def act(trial: Trial) -> None:
            trial.write("rows.jsonl", content)
            flags = train_flags(trial.things.student, "rows.jsonl", "run")
            outcome = trial.run("train", *flags, "--max_steps=1", "--save_strategy=no")
            outcome.refuses_or_works("rows.jsonl", words)

        return act

    for name, (content, words) in contents.items():
        yield f"train/{name}", act_on(content, words)


def _encoded_beside() -> Iterator[tuple[str, Act]]:
    """Files that stand beside the inputs, in another encoding."""
    truth = "de\n" * 3
    beside = {
        "truth-utf-16": (truth.encode("utf-16"), ("UTF-16", "NUL", "not UTF-8")),
        "truth-utf-16-le": (truth.encode("utf-16-le"), ("UTF-16", "NUL")),
        "truth-cr-only": (truth.replace("\n", "\r").encode(), ("CR", "carriage", "1 label")),
        "truth-gzip": (gzip.compress(truth.encode(), mtime=0), ("gzip", "not UTF-8")),
    }

    def act_on(content: bytes, words: tuple[str, ...], flag: str) -> Act:
        def act(trial: Trial) -> None:
            trial.write("in.txt", input_lines(3))
            trial.write("beside.txt", content)
            _evaluate_file(trial, "in.txt", f"--{flag}=beside.txt").refuses_or_works(words)

        return act

    for name, (content, words) in beside.items():
        yield f"evaluate/{name}", act_on(content, words, "ground_truth_file")
        said = name.replace("truth", "predictions")
        yield f"evaluate/{said}", act_on(content, words, "predictions_file")

    def prompt(encoding: str) -> Act:
        def act(trial: Trial) -> None:
            trial.task("task")
            trial.write("task/prompt.md", "Größe bestimmen.".encode(encoding))
            trial.write("in.txt", input_lines(2))
            server = serving(trial, labels())
            label(trial, server, "--task=task").refuses("prompt.md")

        return act

    for encoding in ("utf-16", "utf-16-le", "latin-1"):
        yield f"create_data/prompt-{encoding}", prompt(encoding)


# --- rows: roles, and types of fields


def _turns(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


BAD_ROLES: dict[str, Any] = {
    "tool": "tool", "function": "function", "developer": "developer", "upper-case": "User",
    "empty": "", "number": 3, "null": None, "list": ["user"], "bot": "gpt", "spaces": " user ",
}  # fmt: skip
BAD_TEXTS: dict[str, Any] = {
    "null": None, "number": 3, "float": 2.5, "true": True, "list": ["a"], "object": {"a": 1},
    "empty": "", "blank": "  \t ", "not-a-number": float("nan"),
}  # fmt: skip


def _rows() -> Iterator[tuple[str, Act]]:
    for name, role in BAD_ROLES.items():
        words = (repr(role), json.dumps(role), "role", "user turn")
        for place, row in {
            "history": _turns((role, "x"), ("user", "a"), ("assistant", "de")),
            "middle": _turns(("user", "a"), (role, "x"), ("user", "b"), ("assistant", "de")),
            "last": _turns(("user", "a"), (role, "x")),
        }.items():
            yield from _bad_row(f"role-{name}-{place}", row, words)
    for name, value in BAD_TEXTS.items():
        words = ("text", "content")
        yield from _bad_row(f"text-{name}", {"text": value, "label": "de"}, words, train=False)
        turns = _turns(("user", value), ("assistant", "de"))
        yield from _bad_row(f"content-{name}", turns, words, train=not isinstance(value, str))
        yield from _table_of_types(name, value)
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    shapes: dict[str, Any] = {
        "parts": _turns(("user", parts), ("assistant", "de")),
        "messages-null": {"messages": None}, "messages-text": {"messages": "a"},
        "messages-empty": {"messages": []}, "messages-of-texts": {"messages": ["a", "b"]},
        "messages-of-null": {"messages": [None]}, "no-role": {"messages": [{"content": "a"}]},
        "no-content": {"messages": [{"role": "user"}]}, "no-field": {"sentence": "a"},
        "only-assistant": _turns(("assistant", "de")), "only-system": _turns(("system", "x")),
        "empty-object": {},
    }  # fmt: skip
    for name, row in shapes.items():
        yield from _bad_row(f"shape-{name}", row, ("line 2",))
    lines = {
        "list": "[1]", "number": "5", "null": "null", "text": '"a"', "cut": '{"text": "a"',
        "two": '{"text": "a"} {"text": "b"}', "single-quotes": "{'text': 'a'}", "nan": "NaN",
        "deep": "[" * 100_000, "deep-object": '{"text":' * 50_000, "comma": '{"text": "a",}',
        "big-number": '{"text": ' + "9" * 5000 + "}",
    }  # fmt: skip
    for name, line in lines.items():
        yield from _bad_line(f"line-{name}", line, ("line 2",))
    golds = {
        "number": 5,
        "list": ["de"],
        "true": True,
        "unknown": "xx",
        "object": {},
        "spaces": " de ",
    }
    for name, value in golds.items():
        row = {"text": "a", "label": value}
        yield from _bad_row(f"label-{name}", row, ("label",), train=False)


def _bad_row(name: str, row: Any, words: Word, *, train: bool = True) -> Iterator[tuple[str, Act]]:
    yield from _bad_line(name, json.dumps(row), words, train=train)


def _bad_line(
    name: str, line: str, words: Word, *, train: bool = True
) -> Iterator[tuple[str, Act]]:
    first = json.dumps({"text": "Guten Tag."}) + "\n"
    for command, act in _refused("in.jsonl", f"{first}{line}\n", ("line 2", "input 2"), words):
        yield f"{command}/{name}", act
    if train:

        def training(trial: Trial) -> None:
            trial.write("rows.jsonl", chat_row("Guten Tag.") + line + "\n")
            flags = train_flags(trial.things.student, "rows.jsonl", "run")
            trial.run("train", *flags, "--max_steps=1").refuses("line 2", words)

        yield f"train/{name}", training


def _table_of_types(name: str, value: Any) -> Iterator[tuple[str, Act]]:
    """The same value in a column of a Parquet file and of a folder of `datasets`."""
    values = {"bytes": b"Guten Tag", "date": datetime(2026, 1, 1, tzinfo=UTC)} | {name: value}
    for key, odd in values.items():
        if key != name and name != "null":
            continue  # bytes and dates once, not with each value
        for kind in ("parquet", "folder"):
            yield f"create_data/{kind}-{key}", _typed(kind, odd)


def _typed(kind: str, value: Any) -> Act:
    def act(trial: Trial) -> None:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"text": [value, value], "group": ["a", "b"]})
        if kind == "parquet":
            path = trial.folder / "in.parquet"
            pq.write_table(table, path)
            trial.write("in.parquet", path.read_bytes())
            name = "in.parquet"
        else:
            folder = trial.folder / "made"
            datasets.Dataset(table).save_to_disk(str(folder))
            trial.copy(folder, "in")
            name = "in"
        outcome, server = _label_file(trial, name)
        outcome.refuses(("row 0", "row 1", "input 1"), "text")
        require(not server.asked, f"refused after {len(server.asked)} paid requests")

    return act


# --- nothing left to train on


def _groups() -> Iterator[tuple[str, Act]]:
    one = [{"text": f"Satz {number}.", "group": "same"} for number in range(5)]
    yield "create_data/one-group", _all_held_out("in.jsonl", _lines(one))
    yield "create_data/one-input", _all_held_out("in.txt", "Guten Tag.\n")
    yield "create_data/one-input-repeated", _all_held_out("in.txt", "Guten Tag.\n" * 5)
    table = "text,group\n" + "".join(f"Satz {number}.,same\n" for number in range(5))
    yield "create_data/one-group.csv", _all_held_out("in.csv", table)
    gold = '{"label": "de", "group": "same"}\n' * 5
    yield "create_data/one-group-beside", _all_held_out("in.txt", input_lines(5), gold=gold)
    yield (
        "create_data/one-group-shard",
        _all_held_out("in.jsonl", _lines(one), flags=("--num_shards=2", "--shard_index=0")),
    )
    yield (
        "create_data/one-group-votes",
        _all_held_out("in.jsonl", _lines(one), flags=("--num_votes=3", "--temperature=0.5")),
    )
    yield (
        "create_data/one-group-dry-run",
        _all_held_out(
            "in.jsonl", _lines(one), flags=("--dry_run", "--probe_samples=0"), only_says=True
        ),
    )


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _all_held_out(
    name: str, content: str, *, gold: str = "", flags: tuple[str, ...] = (), only_says: bool = False
) -> Act:
    def act(trial: Trial) -> None:
        trial.write(name, content)
        if gold:
            trial.write(f"{Path(name).stem}.gold.jsonl", gold)
        server = serving(trial, labels())
        outcome = label(trial, server, f"--input_file={name}", "--held_out=0.99", *flags)
        words = ("held out", "held-out", "held_out")
        if only_says:
            outcome.says(words)
            return
        outcome.refuses(words)
        require(not server.asked, f"said after {len(server.asked)} paid requests")

    return act
