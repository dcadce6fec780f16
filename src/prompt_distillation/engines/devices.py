"""What to run on: GPUs if there are any, a clear word where there are too few; cores, memory."""

import os
from pathlib import Path
from typing import Literal

from prompt_distillation.engines.base import Device, EngineOptions
from prompt_distillation.errors import EngineError


def choose_device(options: EngineOptions) -> Literal["cuda", "cpu"]:
    """Settle the device and check that it carries the tensor parallel size.

    Raises:
        EngineError: a GPU was asked for and none is visible, or more than there are; on a CPU,
            more shares than cores.
    """
    import torch

    gpus = torch.cuda.device_count()
    device = _settle(options.device, gpus)
    size = options.tensor_parallel_size
    if device == "cuda" and size > gpus:
        raise EngineError(
            f"--tensor_parallel_size is {size}, but this machine shows {gpus} GPU(s)"
            f"{_visible()}; pass at most {gpus}"
        )
    cores = len(os.sched_getaffinity(0))
    if device == "cpu" and size > cores:
        raise EngineError(
            f"--tensor_parallel_size is {size}, but there is no GPU here and only {cores} CPU "
            f"core(s) to share the model; pass at most {cores}"
        )
    return device


def _settle(device: Device, gpus: int) -> Literal["cuda", "cpu"]:
    if device == "cuda" and not gpus:
        raise EngineError(
            f"a GPU was asked for, but torch sees none{_visible()}; check `nvidia-smi` and that "
            "torch is a CUDA build, or ask for the CPU"
        )
    if device == "auto":
        return "cuda" if gpus else "cpu"
    return device


def _visible() -> str:
    """The environment's restriction, the usual reason for GPUs that do not show."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES={value!r})"


def share_cores(shares: int) -> str:
    """Split the cores this process may use evenly, as ``VLLM_CPU_OMP_THREADS_BIND`` takes it.

    Returns:
        For 2 shares of 4 cores: ``0,1|2,3``.
    """
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // shares
    return "|".join(
        ",".join(map(str, cores[share * size : (share + 1) * size])) for share in range(shares)
    )


def memory_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    container = Path("/sys/fs/cgroup/memory.max")  # cgroups(7), version 2
    if container.is_file() and (limit := container.read_text().strip()).isdecimal():
        limits.append(int(limit))
    return min(limits)
