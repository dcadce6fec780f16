"""The card that a training run leaves."""

import json
from pathlib import Path

import pytest
import yaml
from training.tiny_student import write_rows

from prompt_distillation.cli.train import main as train
from prompt_distillation.data.model_card import trained_card


@pytest.fixture(scope="module")
def run(student, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    write_rows(folder / "rows.heldout.jsonl", 8)
    rows = write_rows(folder / "rows.jsonl", 16)
    train(
        [
            f"--train_file={rows}", f"--model_name={student}", f"--output_dir={folder / 'run'}",
            "--report_to=none", "--gradient_checkpointing=false", "--held_out_answers=4",
        ]
    )  # fmt: skip
    return folder / "run"


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_a_run_says_what_it_is_and_how_to_load_it(run, student):
    card = (run / "README.md").read_text()
    assert "More Information Needed" not in card
    head = head_of(card)
    assert (head["base_model"], head["library_name"]) == (str(student), "peft")
    assert {"prompt-distillation", "lora", f"base_model:adapter:{student}"} <= set(head["tags"])
    assert card.count("\n# run\n") == 1
    assert "PeftModel.from_pretrained(base, path)" in card
    assert "16 chat rows of `rows.jsonl`" in card
    assert "| lora_rank | 32 |" in card
    assert "| held-out loss before, after |" in card
    assert "| agreement with the given answers on held-out rows |" in card
    assert "fine-tuned on the answers in `rows.jsonl`. It needs neither a prompt" in card
    assert ", n=4 (" in card


def test_the_code_on_the_card_loads_the_adapter(run, monkeypatch):
    code = (run / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run.parent)
    names: dict = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "PeftModelForCausalLM"


def test_a_model_trained_whole_has_no_adapter_on_its_card(run):
    manifest = json.loads((run / "training_manifest.json").read_text())
    manifest["config"]["use_lora"] = False
    card = trained_card("whole", manifest)
    assert head_of(card)["library_name"] == "transformers"
    assert "lora" not in card.lower()
    assert "peft" not in card.lower()
