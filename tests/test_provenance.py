import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

from prompt_distillation import provenance

PACKAGE = Path(provenance.__file__).parent


def test_versions_of_what_is_installed_and_nothing_else():
    versions = provenance.package_versions()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["python"].startswith("3.")
    assert all(versions.values())


def test_provenance_goes_into_a_manifest():
    found = json.loads(json.dumps(provenance.provenance()))
    assert found["timestamp"].endswith("+00:00")
    assert set(found) == {"timestamp", "git_commit", "platform", "versions"}


def test_a_package_inside_somebody_elses_repository_has_no_commit(tmp_path):
    site = tmp_path / ".venv" / "lib" / "site-packages"
    shutil.copytree(PACKAGE, site / "prompt_distillation")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    code = "from prompt_distillation import provenance as p; print(p.__file__, p.git_commit())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(site / "prompt_distillation" / "provenance.py"), "None"]


def test_sha256_of_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert provenance.sha256_of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_models_fingerprint_changes_with_its_config_and_its_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"12")
    first = provenance.model_fingerprint(str(tmp_path))
    assert first["name"] == str(tmp_path)
    (tmp_path / "README.md").write_text("not part of the model")
    assert provenance.model_fingerprint(str(tmp_path)) == first
    (tmp_path / "config.json").write_text("[]")
    second = provenance.model_fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"34")
    third = provenance.model_fingerprint(str(tmp_path))
    assert len({first["sha256"], second["sha256"], third["sha256"]}) == 3


def test_a_hub_name_is_its_own_fingerprint():
    assert provenance.model_fingerprint("Qwen/none") == {"name": "Qwen/none"}
