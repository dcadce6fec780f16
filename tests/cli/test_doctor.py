import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from prompt_distillation import machine
from prompt_distillation.cli import doctor
from prompt_distillation.machine import Check, Gpu

H100 = Gpu(name="NVIDIA H100 80GB HBM3", total_gib=79.1, free_gib=78.5)
SMALL = Gpu(name="NVIDIA RTX 4090", total_gib=23.5, free_gib=23.0)
FINE = Check(name="python", status="ok", found="3.11.7")
ODD = Check(name="gpu", status="note", found="none", advice="`pip install -e '.[vllm]'`")
BROKEN = Check(name="packages", status="broken", found="trl is missing")


def by_name(checks):
    return {check["name"]: check for check in checks}


def test_as_a_user_runs_it_on_this_machine():
    done = subprocess.run(
        [sys.executable, "-m", "prompt_distillation", "doctor", "--json"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_API_KEY": "not-to-be-shown"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True
    checks = by_name(found["checks"])
    assert f"torch {importlib.metadata.version('torch')}" in checks["packages"]["found"]
    assert checks["hub"]["found"] == "not asked: HF_HUB_OFFLINE is set"
    assert "recipes/" in checks["recipe"]["found"]
    assert "not-to-be-shown" not in done.stdout + done.stderr


def test_in_a_pipe_each_check_is_one_line(capsys):
    doctor.print_table([FINE, ODD])
    assert capsys.readouterr().out.splitlines() == [
        "ok     python      3.11.7",
        "note   gpu         none; `pip install -e '.[vllm]'`",
    ]


def test_on_a_terminal_square_brackets_stay(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    doctor.print_table([ODD])
    assert "'.[vllm]'" in capsys.readouterr().out


@pytest.mark.parametrize(("checks", "code"), [([FINE, ODD], 0), ([FINE, BROKEN], 1)])
def test_only_a_broken_pin_fails(monkeypatch, capsys, checks, code):
    monkeypatch.setattr(doctor, "examine_machine", lambda hub_timeout_seconds: checks)
    assert doctor.main([]) == code
    capsys.readouterr()
    assert doctor.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["ok"] is (code == 0)


# --- packages ----------------------------------------------------------------------------------


def test_the_pins_of_this_environment_hold():
    requirements = importlib.metadata.requires("prompt-distillation")
    check = machine.check_packages(requirements)
    assert (check.status, check.advice) == ("ok", None)


@pytest.mark.parametrize(
    ("requirement", "found"),
    [
        ("pytest==1.0", f"pytest is {pytest.__version__}, wanted ==1.0"),
        ("pytest>=999", f"pytest is {pytest.__version__}, wanted >=999"),
        ("pytest==1.0; extra == 'dev'", f"pytest is {pytest.__version__}, wanted ==1.0"),
        ("no-such-package-at-all>=1", "no-such-package-at-all is missing"),
    ],
)
def test_a_pin_that_is_broken(requirement, found):
    check = machine.check_packages(["rich>=1", requirement])
    assert (check.status, check.found) == ("broken", found)
    assert "install.sh" in check.advice


def test_an_extra_that_is_not_installed_is_nothing_to_mend():
    requirement = 'no-such-package-at-all==1.0; extra == "gpu"'
    assert machine.check_packages([requirement]).status == "ok"


def test_a_package_of_two_extras_is_said_once():
    extras = [f"pytest=={pytest.__version__}; extra == '{name}'" for name in ("gpu", "bnb")]
    assert machine.check_packages(extras).found == f"pytest {pytest.__version__}"


def test_the_build_of_a_pinned_version_does_not_matter(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert machine.check_packages(["torch==2.13.0"]).status == "ok"
    assert machine.check_packages(["torch==2.13.1"]).status == "broken"


# --- hardware ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "recipe"),
    [
        ([], "recipes/cpu-example-*.yaml"),
        ([SMALL], "recipes/small-gpu-*.yaml"),
        ([SMALL, H100], "recipes/h100-*.yaml"),
        ([H100] * 7, "recipes/h100-*.yaml"),
        ([H100] * 8, "recipes/h100x8-*.yaml"),
    ],
)
def test_the_recipe_follows_the_gpus(gpus, recipe):
    assert machine.check_recipe(gpus).found.startswith(recipe)


def test_gpus_are_listed_with_their_free_memory():
    found = machine.check_gpus([H100, SMALL]).found
    assert (
        found == "2: NVIDIA H100 80GB HBM3, 78 of 79 GiB free; NVIDIA RTX 4090, 23 of 24 GiB free"
    )


@pytest.mark.parametrize(
    "limit_file", ["memory.max", "memory/memory.limit_in_bytes", "memory/job/memory.limit_in_bytes"]
)
def test_the_memory_is_that_of_the_container(monkeypatch, tmp_path, limit_file):
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("4:memory:/job\n0::/\n")
    limits = tmp_path / "groups" / limit_file
    limits.parent.mkdir(parents=True)
    limits.write_text("max\n")
    assert " 3 GiB" not in machine.check_cpu().found
    limits.write_text(f"{3 * 2**30}\n")
    assert " 3 GiB" in machine.check_cpu().found


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    check = machine.check_gpus([])
    assert check.status == "note"
    assert "--gpu" in check.advice


def test_vllm_that_crashes_on_import_is_a_note_with_its_reason(monkeypatch):
    done = subprocess.CompletedProcess(
        [], 1, stdout="", stderr="Traceback\nImportError: libcuda.so.1"
    )
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: done)
    check = machine.check_vllm()
    assert check.status == "note"
    assert "transformers (ImportError: libcuda.so.1)" in check.found


def test_vllm_that_is_killed_by_a_wrong_instruction(monkeypatch):
    done = subprocess.CompletedProcess([], -4, stdout="", stderr="")
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: done)
    assert "it ended with code -4" in machine.check_vllm().found


@pytest.mark.parametrize(
    ("flags", "told"), [({"avx2"}, "needs AVX-512"), ({"avx512f"}, "(not installed)")]
)
def test_vllm_that_is_not_there_says_why(monkeypatch, flags, told):
    stderr = "ModuleNotFoundError: No module named 'vllm'\n"
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=stderr)
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "read_cpu_flags", lambda: frozenset(flags))
    assert told in machine.check_vllm().found


# --- accounts and hosts ------------------------------------------------------------------------


@pytest.fixture
def _no_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_login")
def test_no_wandb_login_is_no_obstacle():
    check = machine.check_wandb()
    assert (check.status, check.found) == ("note", "no login: runs are recorded offline")
    assert "wandb sync models/RUN/wandb/offline-run-*" in check.advice


@pytest.mark.usefixtures("_no_login")
def test_a_wandb_login_is_found_and_its_key_not_shown(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n login user\n password hidden-key\n")
    assert machine.check_wandb().found == f"logged in at api.wandb.ai ({netrc})"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert machine.check_wandb().status == "note"
    monkeypatch.setenv("WANDB_API_KEY", "hidden-key")
    assert machine.check_wandb().found == "logged in (WANDB_API_KEY)"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert machine.check_wandb().found == "WANDB_MODE is offline"


def test_a_hub_that_does_not_answer_is_a_note(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Port 9 of this machine: nobody listens there.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    check = machine.check_hub(timeout_seconds=2)
    assert check.status == "note"
    assert "http://127.0.0.1:9: " in check.found
    assert "HF_ENDPOINT" in check.advice
