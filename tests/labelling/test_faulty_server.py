"""Labelling through a real client and a server that goes wrong."""

import asyncio
import json
from collections import Counter

from engines.faulty_proxy import chat_completion, faulty_proxy

from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.labelling.pipeline import label


async def french(path: str, _: bytes) -> tuple[int, bytes]:
    if path.endswith("/models"):
        return 200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
    return 200, chat_completion("It is French.\n</think>\n\nFinal Answer: fr")


async def test_every_input_ends_once_labelled_or_rejected(tmp_path):
    (tmp_path / "in.txt").write_text("".join(f"phrase {n}\n" for n in range(80)))
    async with faulty_proxy(french, share=0.3, seed=3) as proxy:
        config = LabelConfig.of(
            input_file=tmp_path / "in.txt",
            output_file=tmp_path / "out.jsonl",
            engine="server",
            server_url=proxy.url,
            model_name="m",
            request_timeout_seconds=1.0,
        )
        result = await asyncio.to_thread(label, config)
    counts = result.counts
    assert counts is not None
    assert counts.train + counts.held_out + counts.rejected == 80
    assert set(counts.rejects) <= {"engine_error"}
    assert sum(proxy.seen.values()) > 85  # there were faults
    lines = (tmp_path / "out.journal.jsonl").read_bytes().splitlines()
    rows = [row for line in lines if "key" in (row := json.loads(line))]
    assert set(Counter(row["key"] for row in rows).values()) == {1}
    assert len(rows) == 80
