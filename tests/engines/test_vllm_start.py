"""What vLLM finds in its environment when it starts."""

import os

import pytest

from prompt_distillation.engines.base import EngineOptions
from prompt_distillation.engines.vllm_start import vllm_environment
from prompt_distillation.machine import share_cores

ONE_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
BINDING = "VLLM_CPU_OMP_THREADS_BIND"
PROCESSES = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (ONE_PROCESS, BINDING, PROCESSES):
        monkeypatch.delenv(name, raising=False)


def test_a_model_on_all_cores_computes_where_it_is_scheduled():
    with vllm_environment(EngineOptions(model="m"), device="cpu"):
        assert os.environ[ONE_PROCESS] == "0"
        assert BINDING not in os.environ
    assert ONE_PROCESS not in os.environ


def test_cores_that_are_named_are_kept_to(monkeypatch):
    # As create_data_h100x8.sh names them, where instances share a CPU: only vLLM's second process
    # binds its threads.
    monkeypatch.setenv(BINDING, "0")
    with vllm_environment(EngineOptions(model="m"), device="cpu"):
        assert ONE_PROCESS not in os.environ
        assert os.environ[BINDING] == "0"


def test_shares_of_a_model_have_cores_of_their_own():
    with vllm_environment(EngineOptions(model="m", tensor_parallel_size=2), device="cpu"):
        assert ONE_PROCESS not in os.environ
        assert os.environ[BINDING] == share_cores(2)


def test_processes_for_a_gpu_are_not_forked_from_one_that_may_have_looked_at_it(monkeypatch):
    with vllm_environment(EngineOptions(model="m"), device="cuda"):
        assert os.environ[PROCESSES] == "spawn"
        assert ONE_PROCESS not in os.environ
    assert PROCESSES not in os.environ
    monkeypatch.setenv(PROCESSES, "fork")
    with vllm_environment(EngineOptions(model="m"), device="cuda"):
        assert os.environ[PROCESSES] == "fork"
