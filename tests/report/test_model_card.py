from pathlib import Path

import pytest
import yaml

from prompt_distillation.errors import ModelError
from prompt_distillation.report.model_card import update_model_card
from prompt_distillation.training.model_card import trained_card

CARD = """---
base_model: Qwen/Qwen3-4B
library_name: peft
tags:
- lora
---

# My adapter

Words of its owner.
"""


def head_of(path: Path) -> dict:
    return head_of_text(path.read_text())


def head_of_text(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_metrics_that_the_hub_reads(make_result, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)

    path = update_model_card(tmp_path, make_result(20, wrong=[0], teacher_wrong=[1]))

    head = head_of(path)
    assert head["base_model"] == "Qwen/Qwen3-4B"
    assert head["tags"] == ["lora"]
    (entry,) = head["model-index"][0]["results"]
    assert entry["task"] == {"type": "text-classification", "name": "language"}
    assert {m["type"]: m["value"] for m in entry["metrics"]}["accuracy"] == 0.95
    text = path.read_text()
    assert "Words of its owner." in text
    assert "| this model against gold | 95.0% (95% CI" in text


def test_the_hubs_own_reader_finds_the_metrics(make_result, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    (tmp_path / "README.md").write_text(CARD)

    path = update_model_card(tmp_path, make_result(20, wrong=[0], teacher_wrong=[1]))

    data = ModelCard.load(path).data
    found = {result.metric_type: result for result in data.eval_results}
    assert found["accuracy"].metric_value == 0.95
    assert found["agreement"].metric_value == 0.9
    assert 0 < found["f1"].metric_value < 1
    assert {result.task_type for result in found.values()} == {"text-classification"}
    assert {result.dataset_name for result in found.values()} == {"samples.txt"}
    assert {result.dataset_split for result in found.values()} == {"all"}
    assert data.base_model == "Qwen/Qwen3-4B"


def test_the_card_of_a_training_run_keeps_its_words(make_result, tmp_path: Path) -> None:
    manifest = {
        "base_model": {"name": "Qwen/Qwen3-4B"},
        "config": {"train_file": "data/rows.jsonl", "use_lora": True, "lora_rank": 32},
        "inputs": {"train_file_sha256": "0f"},
        "counts": {
            "rows": 8, "held_out_rows": 2, "tokens": 80, "trained_tokens": 16,
            "trainable_parameters": 4,
        },
        "micro_batch": {"rows": 4, "accumulation_steps": 1, "processes": 1},
        "result": {"steps": 2, "held_out_loss": (3.0, 1.0), "held_out_accuracy": (0.0, 0.5)},
    }  # fmt: skip
    card = trained_card("mine", manifest)
    (tmp_path / "README.md").write_text(card)

    path = update_model_card(tmp_path, make_result(20, wrong=[0], teacher_wrong=[1]))

    head = head_of(path)
    assert head["library_name"] == "peft"
    assert head["tags"] == head_of_text(card)["tags"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.95
    text = path.read_text()
    assert card.split("---", 2)[2].strip() in text
    assert "## Evaluation" in text


def test_a_second_evaluation_replaces_the_first(make_result, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)

    update_model_card(tmp_path, make_result(20, wrong=[0]))
    path = update_model_card(tmp_path, make_result(20))

    assert path.read_text().count("## Evaluation") == 1
    metrics = head_of(path)["model-index"][0]["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in metrics}["accuracy"] == 1.0


def test_a_folder_without_a_card_gets_one_and_no_folder_is_an_error(
    make_result, tmp_path: Path
) -> None:
    assert update_model_card(tmp_path, make_result(5)).is_file()
    with pytest.raises(ModelError, match="no model at"):
        update_model_card(tmp_path / "none", make_result(5))
