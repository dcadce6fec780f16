"""What this machine has: GPUs, cores and memory to run on, and a list of checks for `doctor`."""

import importlib.metadata
import netrc
import os
import platform
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from prompt_distillation.errors import EngineError

Status = Literal["ok", "note", "broken"]
Device = Literal["auto", "cuda", "cpu"]

DISTRIBUTION = "prompt-distillation"
GIB = 2**30
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LARGE_GPU_GIB = 75
"""A GPU that holds a 30B-A3B model in bf16 (61 GB of weights) counts as large: 80 GB cards show
79 GiB or a little less."""

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        status: ``note`` is worth reading, ``broken`` means the project will not run as tested.
        advice: what to do, where there is something to do.
    """

    name: str
    status: Status
    found: str
    advice: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One CUDA device; memory in GiB."""

    name: str
    total_gib: float
    free_gib: float


def choose_device(device: Device, tensor_parallel_size: int = 1) -> Literal["cuda", "cpu"]:
    """Settle what a model runs on, and check that there is enough of it.

    Raises:
        EngineError: a GPU was asked for and none is visible, or more than there are; on a CPU,
            more shares than cores.
    """
    import torch

    gpus = torch.cuda.device_count()
    settled, size = _settle(device, gpus), tensor_parallel_size
    if settled == "cuda" and size > gpus:
        raise EngineError(
            f"--tensor_parallel_size is {size}, but this machine shows {gpus} GPU(s)"
            f"{_visible()}; pass at most {gpus}"
        )
    cores = len(os.sched_getaffinity(0))
    if settled == "cpu" and size > cores:
        raise EngineError(
            f"--tensor_parallel_size is {size}, but there is no GPU here and only {cores} CPU "
            f"core(s) to share the model; pass at most {cores}"
        )
    return settled


def _settle(device: Device, gpus: int) -> Literal["cuda", "cpu"]:
    if device == "cuda" and not gpus:
        raise EngineError(
            f"a GPU was asked for, but torch sees none{_visible()}; check `nvidia-smi` and that "
            "torch is a CUDA build"
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

    For 2 shares of 4 cores: ``0,1|2,3``.
    """
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // shares
    return "|".join(
        ",".join(map(str, cores[share * size : (share + 1) * size])) for share in range(shares)
    )


def memory_bytes() -> int:
    """Memory of this machine, or of the container or job that this process is in, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limit_files():
        if path.is_file() and (limit := path.read_text(encoding="ascii").strip()).isdecimal():
            limits.append(int(limit))
    return min(limits)


def _limit_files() -> Iterator[Path]:
    """Where Linux says how much memory a control group may take; see cgroups(7)."""
    yield CONTROL_GROUPS / "memory.max"  # version 2, as a container sees itself
    yield CONTROL_GROUPS / "memory/memory.limit_in_bytes"  # version 1
    try:
        own = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in own:  # ID:CONTROLLERS:/PATH; a batch system's job is a group below the machine's
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield CONTROL_GROUPS / path.lstrip("/") / "memory.max"
        elif controllers == "memory":
            yield CONTROL_GROUPS / "memory" / path.lstrip("/") / "memory.limit_in_bytes"


def examine_machine(*, hub_timeout_seconds: float) -> list[Check]:
    """Look at everything; takes a few seconds (torch and vLLM are imported)."""
    gpus = find_gpus()
    return [
        Check("python", "ok", f"{platform.python_version()} at {sys.executable}"),
        check_cpu(),
        check_gpus(gpus),
        check_packages(importlib.metadata.requires(DISTRIBUTION) or []),
        check_vllm(),
        check_wandb(),
        check_hub(timeout_seconds=hub_timeout_seconds),
        check_disk(Path.cwd()),
        check_recipe(gpus),
    ]


def read_cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor, as Linux names them; empty where it does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())


def check_cpu() -> Check:
    """Cores and memory that this process may use, and the instruction sets that matter here."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = memory_bytes() / GIB
    flags = [flag for flag in CPU_FLAGS if flag in read_cpu_flags()]
    found = f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, {' '.join(flags)}".rstrip(", ")
    return Check("cpu", "ok", found)


def find_gpus() -> list[Gpu]:
    """The CUDA devices torch can use."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        gpus.append(Gpu(name=name, total_gib=total / GIB, free_gib=free / GIB))
    return gpus


def check_gpus(gpus: Sequence[Gpu]) -> Check:
    """Say which GPUs there are, or why torch sees none."""
    import torch

    if gpus:
        found = "; ".join(
            f"{gpu.name}, {gpu.free_gib:.0f} of {gpu.total_gib:.0f} GiB free" for gpu in gpus
        )
        return Check("gpu", "ok", f"{len(gpus)}: {found}")
    if shutil.which("nvidia-smi") is None:
        found = "none: the example models run on the CPU, a 30B model does not"
        return Check("gpu", "note", found)
    return Check(
        "gpu",
        "note",
        f"nvidia-smi is here, but torch {torch.__version__} sees no GPU",
        "`bash scripts/install.sh --gpu` installs the CUDA build; else check the driver",
    )


def check_packages(requirements: Sequence[str]) -> Check:
    """Compare what is installed with what the project asks for.

    Args:
        requirements: as in a wheel's ``Requires-Dist``. Those of an extra count only where the
            package is there: a machine without GPUs has no bitsandbytes.
    """
    wrong, pinned = [], []
    for requirement in map(Requirement, requirements):
        is_extra = "extra ==" in str(requirement.marker or "")
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if not is_extra:
                wrong.append(f"{requirement.name} is missing")
            continue
        # A local part (2.13.0+cpu) does not matter to a pin without one; pre-releases count.
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
        elif "==" in str(requirement.specifier) or requirement.name == "transformers":
            pinned.append(f"{requirement.name} {version}")
    # A package may be in two extras; it is reported once.
    wrong, pinned = list(dict.fromkeys(wrong)), list(dict.fromkeys(pinned))
    if wrong:
        advice = "run `bash scripts/install.sh` (it puts every version back)"
        return Check("packages", "broken", "; ".join(wrong), advice)
    return Check("packages", "ok", ", ".join(pinned))


def check_vllm() -> Check:
    """Whether vLLM can be imported; in a process of its own, for a wrong build may crash."""
    done = subprocess.run(
        [sys.executable, "-c", "import vllm; print(vllm.__version__)"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
    )
    if done.returncode == 0:
        return Check("vllm", "ok", done.stdout.split()[-1])
    lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    fallback = "not importable, so the engine `auto` is transformers"
    if "No module named 'vllm'" not in lines[-1]:
        return Check("vllm", "note", f"{fallback} ({lines[-1][:200]})")
    if platform.machine() == "x86_64" and "avx512f" not in read_cpu_flags():
        why = "not installed: vLLM for CPU needs AVX-512, and this processor has none"
        return Check("vllm", "note", f"{fallback} ({why})")
    advice = "`bash scripts/install.sh`, with --gpu where there are NVIDIA GPUs"
    return Check("vllm", "note", f"{fallback} (not installed)", advice)


def wandb_login() -> str | None:
    """Where W&B would find a key without asking, the environment or a netrc file; None: nowhere."""
    if os.environ.get("WANDB_API_KEY"):
        return "(WANDB_API_KEY)"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = host and netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return f"at {host} ({path})" if found else None


def check_wandb() -> Check:
    """Whether there is a Weights & Biases login; the key itself is not shown."""
    mode = os.environ.get("WANDB_MODE")
    if mode in {"offline", "disabled"}:
        return Check("wandb", "ok", f"WANDB_MODE is {mode}")
    if login := wandb_login():
        return Check("wandb", "ok", f"logged in {login}")
    return Check(
        "wandb",
        "note",
        "no login: runs are recorded offline",
        "`wandb login` once, then `wandb sync models/RUN/wandb/offline-run-*`",
    )


def check_hub(*, timeout_seconds: float) -> Check:
    """Whether the model hub answers. Not asked where the environment says offline."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return Check("hub", "ok", "not asked: HF_HUB_OFFLINE is set")
    answers: list[str] = []
    asking = threading.Thread(
        target=lambda: answers.append(_ask(constants.ENDPOINT, timeout_seconds)), daemon=True
    )
    asking.start()
    # Looking up the host's name knows no timeout of its own: do not wait for that either.
    asking.join(timeout_seconds)
    problem = answers[0] if answers else f"no answer within {timeout_seconds:g} s"
    if not problem:
        return Check("hub", "ok", f"{constants.ENDPOINT} answers")
    return Check(
        "hub",
        "note",
        f"{constants.ENDPOINT}: {problem}; local folders and the example models work",
        "set HF_ENDPOINT to a mirror, or copy the models here and pass their folders",
    )


def _ask(url: str, timeout_seconds: float) -> str:
    """Send one HEAD request; returns what went wrong, or an empty text."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout_seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}" if error.code >= 500 else ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)


def check_disk(folder: Path) -> Check:
    """Free space where the outputs go, and where the hub's models are kept."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    here_gib, cache_gib = (shutil.disk_usage(path).free / GIB for path in (folder, there))
    found = f"{here_gib:.0f} GiB free here, {cache_gib:.0f} GiB at {cache}"
    if cache_gib < 130:
        found += " (teacher and student of 30B need 61 GB each)"
    return Check("disk", "note" if here_gib < 5 else "ok", found)


def check_recipe(gpus: Sequence[Gpu]) -> Check:
    """Name the recipes that fit."""
    large = [gpu for gpu in gpus if gpu.total_gib >= LARGE_GPU_GIB]
    if len(large) >= 8:
        found = "recipes/h100x8-*.yaml, create_data_h100x8.sh and train_trl.sh"
    elif large:
        found = "recipes/h100-*.yaml and train_trl.sh"
    elif gpus:
        found = "recipes/small-gpu-*.yaml"
    else:
        found = "recipes/cpu-example-*.yaml; `bash scripts/quickstart.sh` runs them all"
    return Check("recipe", "ok", found)
