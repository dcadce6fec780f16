import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from engines.asking import tiny_engine

from prompt_distillation.engines import Engine


@pytest.fixture(scope="session")
def stopping_model(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher with a fifth of its vocabulary ending a turn, so that it does end."""
    folder = tmp_path_factory.mktemp("models") / "stopping"
    shutil.copytree(tiny_models.teacher, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["eos_token_id"] += list(range(3, 256, 5))
    path.write_text(json.dumps(config))
    return folder


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def vllm_engine(stopping_model: Path) -> AsyncIterator[Engine]:
    # By itself vLLM takes a float32 checkpoint in half precision.
    async with tiny_engine(stopping_model, "vllm", dtype="float32") as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def transformers_engine(stopping_model: Path) -> AsyncIterator[Engine]:
    async with tiny_engine(stopping_model) as engine:
        yield engine
