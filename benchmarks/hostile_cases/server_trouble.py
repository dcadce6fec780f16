"""A server that misbehaves: either it works, or its trouble is named; nothing waits for ever."""

import json
import random
import re
import signal
from collections.abc import Iterator
from typing import Any

from hostile_cases.fixtures import input_lines
from hostile_cases.scripted_server import (
    MODEL,
    Reply,
    Script,
    ScriptedServer,
    SilentPort,
    always,
    completion,
    labels,
    unused_port,
)
from hostile_cases.text_is_data import TASK, Act, label, read_rows, serving
from hostile_cases.trial import Case, Trial, Word, require

INPUTS = 4
PARTS = [{"type": "text", "text": "</think>\n\nFinal "}, {"type": "text", "text": "Answer: de"}]
HTML = b"<!doctype html><html><title>Log in to the proxy</title></html>"

WORKS: dict[str, dict[str, Any]] = {
    "no-usage": completion(usage=...),
    "usage-null": completion(usage=None),
    "usage-empty": completion(usage={}),
    "usage-texts": completion(usage={"prompt_tokens": "7", "completion_tokens": "3"}),
    "usage-half": completion(usage={"prompt_tokens": 7}),
    "usage-negative": completion(usage={"prompt_tokens": -7, "completion_tokens": -3}),
    "usage-fraction": completion(usage={"prompt_tokens": 7.5, "completion_tokens": 3.5}),
    "usage-huge": completion(usage={"prompt_tokens": 10**30, "completion_tokens": 3}),
    "finish-null": completion(choice={"finish_reason": None}),
    "finish-missing": completion(choice={"finish_reason": ...}),
    "finish-empty": completion(choice={"finish_reason": ""}),
    "finish-eos": completion(choice={"finish_reason": "eos"}),
    "finish-number": completion(choice={"finish_reason": 1}),
    "content-parts": completion(PARTS),
    "content-one-part": completion([{"type": "text", "text": "</think>\n\nFinal Answer: de"}]),
    "two-choices": completion(choices=[completion()["choices"][0], completion("x")["choices"][0]]),
    "extra-fields": completion(service_tier="x", choice={"logprobs": None, "stop_reason": None}),
    "reasoning-null": completion(message={"reasoning": None, "reasoning_content": None}),
    "role-missing": completion(message={"role": ...}),
    "id-missing": completion(id=..., object=...),
}
"""An answer that holds a label, however odd its frame is: it must work, or be named."""

ODD: dict[str, Reply] = {
    "content-null": Reply(body=completion(None)),
    "content-missing": Reply(body=completion(...)),
    "content-number": Reply(body=completion(5)),
    "content-object": Reply(body=completion({"text": "de"})),
    "content-image": Reply(body=completion([{"type": "image_url", "image_url": {"url": "x"}}])),
    "content-empty-list": Reply(body=completion([])),
    "content-nul": Reply(body=completion("\0" * 10)),
    "tool-call": Reply(body=completion(None, choice={"finish_reason": "tool_calls"})),
    "content-filter": Reply(body=completion("", choice={"finish_reason": "content_filter"})),
    "refusal": Reply(body=completion(None, message={"refusal": "I will not."})),
    "html": Reply(body=HTML, headers={"Content-Type": "text/html"}),
    "html-as-json": Reply(body=HTML),
    "empty-body": Reply(body=b""),
    "null": Reply(body=b"null"),
    "list": Reply(body=b"[]"),
    "number": Reply(body=b"5"),
    "text": Reply(body=b'"busy"'),
    "empty-object": Reply(body={}),
    "no-choices": Reply(body=completion(choices=[])),
    "choices-null": Reply(body=completion(choices=None)),
    "choice-null": Reply(body=completion(choices=[None])),
    "message-null": Reply(body=completion(choices=[{"finish_reason": "stop", "message": None}])),
    "error-with-200": Reply(body={"error": {"message": "out of memory", "code": 500}}),
    "error-text-with-200": Reply(body={"error": "out of memory"}),
    "error-beside": Reply(body={"error": {"message": "late"}, "choices": []}),
    "event-stream": Reply(
        body=b'data: {"choices": []}\n\ndata: [DONE]\n\n',
        headers={"Content-Type": "text/event-stream"},
    ),
    "old-completion": Reply(body={"choices": [{"text": "de", "finish_reason": "stop"}]}),
    "not-utf8": Reply(body=b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "nan": Reply(body=b'{"choices": NaN}'),
    "deep": Reply(body=b"[" * 200_000),
    "big-number": Reply(body=b'{"choices": ' + b"9" * 10_000 + b"}"),
    "cut": Reply(body=completion(), cut=40),
    "cut-at-once": Reply(body=completion(), cut=0),
    "length-too-long": Reply(body=completion(), headers={"Content-Length": "100000"}),
    "length-too-short": Reply(body=completion(), headers={"Content-Length": "10"}),
    "length-nonsense": Reply(body=completion(), headers={"Content-Length": "abc"}),
    "gzip-that-is-none": Reply(body=completion(), headers={"Content-Encoding": "gzip"}),
    "created": Reply(body=completion(), status=201),
    "no-content": Reply(status=204),
    "huge": Reply(body=completion("x" * 3_000_000)),
}
"""An answer that holds no label, or not as HTTP wants it."""

STATUSES = (
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    413,
    418,
    422,
    429,
    500,
    501,
    502,
    503,
    504,
    529,
)


def cases() -> Iterator[Case]:
    """All of them."""
    for name, act in _named():
        yield Case(group="server", name=name, act=act, waits=True)


def _named() -> Iterator[tuple[str, Act]]:
    for name, body in WORKS.items():
        yield f"create_data/{name}", _works_or_named(body)
        yield f"evaluate/{name}", _evaluates(always(Reply(body=body)))
    for name, reply in ODD.items():
        yield f"create_data/{name}", _named_soon(always(reply))
        yield f"evaluate/{name}", _evaluates(always(reply))
        yield f"create_data/sometimes-{name}", _sometimes(reply)
    for status in STATUSES:
        body = {"error": {"message": f"reason {status}", "type": "x"}}
        yield (
            f"create_data/status-{status}",
            _named_soon(
                always(Reply(status=status, body=body)), (str(status), f"reason {status}", "key")
            ),
        )
        yield f"create_data/sometimes-{status}", _sometimes(Reply(status=status, body=body))
        plain = Reply(status=status, body=HTML, headers={"Content-Type": "text/html"})
        yield f"create_data/page-{status}", _named_soon(always(plain), (str(status), "key"))
    for status in (301, 302, 303, 307, 308):
        yield f"create_data/redirect-loop-{status}", _redirected(status, loop=True)
        yield f"create_data/redirect-away-{status}", _redirected(status, loop=False)
        no_place = always(Reply(status=status, body=HTML))
        yield f"create_data/redirect-nowhere-{status}", _named_soon(no_place)
    yield (
        "create_data/quota",
        _named_soon(
            always(
                Reply(status=429, body={"error": {"code": "insufficient_quota", "message": "no"}})
            ),
            ("quota",),
        ),
    )
    for name, after in RETRY_AFTER.items():
        reply = Reply(status=429, body=b"{}", headers={"Retry-After": after})
        yield f"create_data/retry-after-{name}", _named_soon(always(reply), ("429",))
    yield "create_data/refuses-connections", _nobody_there
    yield "create_data/never-answers", _silent
    yield (
        "create_data/never-answers-completions",
        _named_soon(
            always(Reply(wait_seconds=600)),
            ("no answer", "timeout", "timed out", "within"),
            "--request_timeout_seconds=1",
        ),
    )
    yield "create_data/slow", _slow
    yield "create_data/gone-in-the-middle", _gone
    yield "create_data/30-percent-errors", _thirty_percent
    yield "create_data/nothing-ever-succeeds", _gives_up
    yield "create_data/no-false-100-percent", _no_false_percent
    for name, url in BAD_URLS.items():
        yield f"create_data/url-{name}", _bad_url(url)
    for name, models in MODEL_LISTS.items():
        yield f"create_data/models-{name}", _models(models)


RETRY_AFTER = {
    "huge": "99999999", "negative": "-5", "nonsense": "soon", "not-a-number": "nan",
    "infinite": "inf", "date": "Wed, 21 Oct 2099 07:28:00 GMT", "bad-date": "Wed, 99 Oct",
}  # fmt: skip
BAD_URLS = {
    "no-scheme": "127.0.0.1:8000/v1", "file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/v1",
    "empty-host": "http:///v1", "bad-port": "http://127.0.0.1:99999/v1", "bracket": "http://[::1/v1",
    "text": "hello", "space": "http://a b/v1", "port-text": "http://127.0.0.1:port/v1",
    "control": "http://127.0.0.1/\x1b[31m", "long-host": f"http://{'a' * 300}/v1",
    "unicode": "http://ex\u00e4mple.invalid/v1", "dots": "http://../v1",
}  # fmt: skip
MODEL_LISTS = {
    "html": Reply(body=HTML, headers={"Content-Type": "text/html"}),
    "null-data": Reply(body={"object": "list", "data": None}),
    "no-id": Reply(body={"data": [{"object": "model"}]}),
    "id-number": Reply(body={"data": [{"id": 5}]}),
    "id-null": Reply(body={"data": [{"id": None}]}),
    "texts": Reply(body={"data": ["m", "n"]}),
    "of-null": Reply(body={"data": [None]}),
    "list": Reply(body=[{"id": MODEL}]),
    "text": Reply(body=b'"m"'),
    "not-found": Reply(status=404, body=b"{}"),
    "busy": Reply(status=503, body=b"{}"),
    "others": Reply(body={"data": [{"id": "a"}, {"id": "b"}]}),
    "control": Reply(body={"data": [{"id": "a\x1b[31m\nb\u202e"}]}),
    "cut": Reply(body={"data": [{"id": MODEL}]}, cut=5),
    "no-json": Reply(body=b"{{{"),
}


def _works_or_named(body: dict[str, Any]) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(INPUTS))
        outcome = _label_briefly(trial, serving(trial, always(Reply(body=body))))
        outcome.works()
        rows = read_rows(trial.folder / "out.jsonl")
        require(len(rows) >= 1, "no row in the dataset")

    return act


def _label_briefly(trial: Trial, server: ScriptedServer, *flags: str):  # type: ignore[no-untyped-def]
    """Label to the end, which must come soon: a request is not tried again for minutes."""
    return label(trial, server, "--progress_seconds=0.5", *flags, seconds=90.0)


def _named_soon(script: Script, words: Word = (), *flags: str) -> Act:
    """Trouble is told within seconds; Ctrl-C then ends the command if it has not ended yet."""

    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(INPUTS))
        server = serving(trial, script)
        _run_for(trial, server.url, 40.0, words, *flags)

    return act


FAILED = re.compile(
    r"fail|refus|error|reject|no answer|not JSON|no choices|trying again|sent nothing", re.I
)


def _run_for(trial: Trial, url: str, seconds: float, words: Word, *flags: str) -> None:
    """Run until it ends, or for ``seconds``; then interrupt it, and see what it has said."""
    own = [
        "--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server",
        f"--server_url={url}", f"--model_name={MODEL}", "--max_retries=0",
        "--request_timeout_seconds=5", "--progress_seconds=0.5",
    ]  # fmt: skip
    names = (words,) if isinstance(words, str) else words
    running = trial.start("create_data", *own, *flags)

    def text() -> str:
        return bytes(running.err + running.out).decode("utf-8", "replace")

    def named() -> bool:
        if names:
            return any(word.casefold() in text().casefold() for word in names)
        return bool(FAILED.search(text()))

    found = running.wait_for(named, seconds)
    if b"error: " in running.err:
        running.ended.wait(30.0)  # it is on its way out
    if not running.ended.is_set():
        running.signal(signal.SIGINT)
    outcome = trial.finish(running, codes=(130,), seconds=60.0)
    require(
        outcome.code == 0 or found or (outcome.code == 2 and named()),
        f"after {seconds:g} s nothing names the trouble ({' or '.join(names)}): {text()[-200:]!r}",
    )


def _evaluates(script: Script) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(INPUTS))
        trial.write("truth.txt", "de\n" * INPUTS)
        server = serving(trial, script)
        running = trial.start(
            "evaluate", "--engine=server", f"--server_url={server.url}", "--model_path=m",
            "--thinking", "--test_file=in.txt", "--ground_truth_file=truth.txt", "--split=all",
            "--output_file=result.json", "--quiet", TASK,
        )  # fmt: skip

        def named() -> bool:
            return bool(FAILED.search(bytes(running.err + running.out).decode("utf-8", "replace")))

        found = running.wait_for(named, 40.0)
        ended = running.ended.wait(8.0)
        if not ended:
            running.signal(signal.SIGINT)
        outcome = trial.finish(running, codes=(130,), seconds=60.0)
        if ended and outcome.code == 0:
            result = json.loads((trial.folder / "result.json").read_text())
            require(len(result["predictions"]) == INPUTS, "inputs are missing from the result")
        require(ended or found, f"after 40 s nothing names the trouble: {outcome.said[-200:]!r}")

    return act


def _sometimes(reply: Reply) -> Act:
    """Every second answer is good: what is good is in the dataset, the other is named."""

    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(INPUTS))
        good = Reply(body=completion())
        server = serving(trial, lambda number, body: reply if number % 2 else good)
        own = [
            "--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server",
            f"--server_url={server.url}", f"--model_name={MODEL}", "--max_retries=1",
            "--request_timeout_seconds=2", "--progress_seconds=0.5", "--max_concurrency=1",
        ]  # fmt: skip
        running = trial.start("create_data", *own)
        if not running.ended.wait(30.0):
            running.signal(signal.SIGINT)
        trial.finish(running, codes=(130,), seconds=60.0)
        journal = trial.folder / "out.journal.jsonl"
        held = sum("text" in row for row in read_rows(journal)) if journal.exists() else 0
        require(held >= 1, "no good answer is in the journal")

    return act


def _redirected(status: int, *, loop: bool) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(INPUTS))
        good = serving(trial, labels())
        place = "/v1/chat/completions" if loop else f"{good.url}/chat/completions"
        reply = Reply(status=status, body=b"", headers={"Location": place})
        _run_for(trial, serving(trial, always(reply)).url, 40.0, ())

    return act


def _nobody_there(trial: Trial) -> None:
    trial.write("in.txt", input_lines(INPUTS))
    url = f"http://127.0.0.1:{unused_port()}/v1"
    own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server"]
    trial.run("create_data", *own, f"--server_url={url}", "--model_name=m").refuses(url)


def _silent(trial: Trial) -> None:
    trial.write("in.txt", input_lines(INPUTS))
    port = SilentPort()
    trial.on_close(port.close)
    own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server"]
    flags = [f"--server_url={port.url}", "--model_name=m", "--request_timeout_seconds=1"]
    trial.run("create_data", *own, *flags, seconds=60.0).refuses(port.url)


def _slow(trial: Trial) -> None:
    trial.write("in.txt", input_lines(INPUTS))
    server = serving(trial, always(Reply(body=completion(), wait_seconds=1.0)))
    label(trial, server, "--request_timeout_seconds=30").works()


def _gone(trial: Trial) -> None:
    trial.write("in.txt", input_lines(30))
    server = serving(trial, labels())
    own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server"]
    flags = [f"--server_url={server.url}", "--model_name=m", "--max_concurrency=1"]

    def script(number: int, body: dict[str, Any]) -> Reply:
        if number == 5:
            server._http.server_close()
        return Reply(body=completion(), cut=0 if number >= 5 else None)

    server._script = script
    running = trial.start("create_data", *own, *flags)
    if not running.ended.wait(30.0):
        running.signal(signal.SIGINT)
    trial.finish(running, codes=(130,), seconds=60.0)
    rows = [row for row in read_rows(trial.folder / "out.journal.jsonl") if "text" in row]
    require(len(rows) == 5, f"{len(rows)} of the 5 answers that were paid for are in the journal")


def _thirty_percent(trial: Trial) -> None:
    dice = random.Random(0)
    trial.write("in.txt", input_lines(40))
    replies = [Reply(status=500, body=b"{}"), Reply(status=429, body=b"{}"), Reply(body=HTML)]

    def script(number: int, body: dict[str, Any]) -> Reply:
        return dice.choice(replies) if dice.random() < 0.3 else Reply(body=completion())

    outcome = label(trial, serving(trial, script), "--held_out=0", seconds=90.0).works()
    rows = read_rows(trial.folder / "out.jsonl")
    require(len(rows) == 40, f"{len(rows)} rows of 40")
    outcome.says(("500", "429", "not JSON", "failed"))


def _gives_up(trial: Trial) -> None:
    trial.write("in.txt", input_lines(INPUTS))
    server = serving(trial, always(Reply(status=503, body={"error": {"message": "loading"}})))
    outcome = label(trial, server, "--progress_seconds=0.5", seconds=300.0)
    outcome.refuses(("503", "loading"))


def _no_false_percent(trial: Trial) -> None:
    trial.write("in.txt", input_lines(INPUTS))
    server = serving(trial, always(Reply(status=500, body=b"{}")))
    own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server"]
    flags = [f"--server_url={server.url}", "--model_name=m", "--progress_seconds=0.2"]
    running = trial.start("create_data", *own, *flags)
    running.ended.wait(6.0)
    running.signal(signal.SIGINT)
    outcome = trial.finish(running, codes=(130,), seconds=60.0)
    wrong = re.search(r"100(\.0)? ?% parsed", outcome.said)
    require(not wrong, "it says 100 % parsed, and nothing has succeeded")


def _bad_url(url: str) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(2))
        own = ["--input_file=in.txt", "--output_file=out.jsonl", TASK, "--engine=server"]
        flags = [f"--server_url={url}", "--model_name=m", "--request_timeout_seconds=2"]
        trial.run("create_data", *own, *flags, seconds=60.0).refuses(("server_url", "server"))

    return act


def _models(models: Reply) -> Act:
    def act(trial: Trial) -> None:
        trial.write("in.txt", input_lines(2))
        server = serving(trial, labels(), models=models)
        label(trial, server, seconds=60.0).refuses_or_works("server")

    return act
