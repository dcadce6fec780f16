"""Labelling through a server that fails 30 % of the time: every input ends, none is done twice.

    python benchmarks/labelling_faulty_server.py                    # 2,000 inputs
    python benchmarks/labelling_faulty_server.py --inputs 200       # a quick look

Faults, drawn by a seed: 429 with Retry-After, 500, timeouts, connections cut before and within the
answer, broken JSON, empty choices. A second run of the same command asks again for what failed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from engines.faulty_proxy import chat_completion, faulty_proxy  # noqa: E402

from prompt_distillation.config.label_config import LabelConfig  # noqa: E402
from prompt_distillation.labelling.pipeline import label  # noqa: E402


def main() -> None:
    """Label twice and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.3, help="of requests that go wrong")
    parser.add_argument("--timeout_seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), **vars(arguments)))


async def measure(folder: Path, inputs: int, share: float, timeout_seconds: float) -> None:
    """Label through the proxy, in a thread beside it."""
    (folder / "in.txt").write_text("".join(f"phrase numéro {n}\n" for n in range(inputs)))
    async with faulty_proxy(answer_in_french, share=share, seed=0) as proxy:
        config = LabelConfig.of(
            input_file=folder / "in.txt",
            output_file=folder / "out.jsonl",
            engine="server",
            server_url=proxy.url,
            model_name="m",
            request_timeout_seconds=timeout_seconds,
        )
        for run in ("first run", "second run"):
            started = time.perf_counter()
            result = await asyncio.to_thread(label, config)
            counts = result.counts
            if counts is None or result.state != "written":
                print(f"{run}: nothing left to do")
                continue
            print(
                f"{run}: {counts.inputs:,} inputs, {counts.train + counts.held_out:,} labelled, "
                f"rejected {dict(counts.rejects)}, in {time.perf_counter() - started:.1f} s"
            )
        print(f"what the server did: {dict(proxy.seen)}")
    lines = (folder / "out.journal.jsonl").read_bytes().splitlines()
    rows = [row for line in lines if "text" in (row := json.loads(line))]
    made = Counter((row["key"], row["vote"], row["attempt"]) for row in rows)
    print(f"completions in the journal: {len(made):,}, there twice: {len(rows) - len(made)}")


async def answer_in_french(path: str, _: bytes) -> tuple[int, bytes]:
    """What a healthy server would say."""
    if path.endswith("/models"):
        return 200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
    await asyncio.sleep(0.002)
    return 200, chat_completion("It is French.\n</think>\n\nFinal Answer: fr")


if __name__ == "__main__":
    main()
