from pathlib import Path

import pytest
import yaml

from prompt_distillation.data.model_card import exported_card, trained_card, update_model_card
from prompt_distillation.errors import ModelError

CARD = """---
base_model: Qwen/Qwen3-4B
library_name: peft
tags:
- lora
---

# My adapter

Words of its owner.
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model and a card that somebody wrote."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def manifest_of_a_run() -> dict:
    return {
        "base_model": {"name": "Qwen/Qwen3-4B"},
        "config": {"train_file": "data/rows.jsonl", "use_lora": True, "lora_rank": 32},
        "inputs": {"train_file_sha256": "0f"},
        "counts": {
            "rows": 8, "held_out_rows": 40, "tokens": 80, "trained_tokens": 16,
            "trainable_parameters": 4,
        },
        "micro_batch": {"rows": 4, "accumulation_steps": 1, "processes": 1},
        "result": {
            "steps": 2, "held_out_loss": (3.0, 1.0), "held_out_accuracy": (0.0, 1.0),
            "held_out_answers": 32,
        },
    }  # fmt: skip


def head_of(path: Path) -> dict:
    return head_of_text(path.read_text())


def head_of_text(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def test_metrics_that_the_hub_reads(make_result, model: Path) -> None:
    path = update_model_card(model, make_result(20, wrong=[0], teacher_wrong=[1]))

    head = head_of(path)
    assert head["base_model"] == "Qwen/Qwen3-4B"
    assert head["tags"] == ["lora"]
    (entry,) = head["model-index"][0]["results"]
    assert entry["task"] == {"type": "text-classification", "name": "language"}
    assert {m["type"]: m["value"] for m in entry["metrics"]}["accuracy"] == 0.95
    text = path.read_text()
    assert "Words of its owner." in text
    assert "| this model with the gold labels | 95.0% (95% CI 76.4-99.1%) | 20 |" in text


def test_the_hubs_own_reader_finds_the_metrics(make_result, model: Path) -> None:
    from huggingface_hub import ModelCard

    path = update_model_card(model, make_result(20, wrong=[0], teacher_wrong=[1]))

    data = ModelCard.load(path).data
    found = {result.metric_type: result for result in data.eval_results}
    assert found["accuracy"].metric_value == 0.95
    assert (
        found["accuracy"].metric_name == "Accuracy (against gold labels, n=20, 95% CI 76.4-99.1%)"
    )
    assert found["agreement"].metric_value == 0.9
    assert 0 < found["f1"].metric_value < 1
    assert {result.task_type for result in found.values()} == {"text-classification"}
    assert {result.dataset_name for result in found.values()} == {"samples.txt"}
    assert {result.dataset_split for result in found.values()} == {"all"}
    assert data.base_model == "Qwen/Qwen3-4B"


def test_free_text_has_metrics_of_its_own(make_text_result, model: Path) -> None:
    path = update_model_card(model, make_text_result(references=3, total=4))

    (entry,) = head_of(path)["model-index"][0]["results"]
    assert entry["task"]["type"] == "text-generation"
    assert [m["type"] for m in entry["metrics"]] == ["bleu", "chrf", "rouge"]
    assert entry["metrics"][2]["value"] == 0.5
    assert "| ROUGE-L | 0.500 (0.500-0.500) | 3 |" in path.read_text()
    with pytest.raises(ModelError, match="would say nothing; evaluate"):
        update_model_card(model, make_text_result(references=0, total=4))


def test_held_out_agreement_says_of_what_and_how_sure() -> None:
    card = trained_card("mine", manifest_of_a_run())

    assert (
        "| agreement with the teacher on held-out rows "
        "| 100.0% (95% CI 89.3-100.0%), n=32 (0.0% before training) |"
    ) in card


def test_a_model_that_learned_gold_answers_under_a_prompt_says_so() -> None:
    manifest = manifest_of_a_run()
    manifest["inputs"] |= {"answers": "given", "with_prompt": True}

    card = trained_card("mine", manifest)

    assert "fine-tuned on the answers in `rows.jsonl`. It was trained with a system message" in card
    assert "| agreement with the given answers on held-out rows |" in card
    assert "teacher" not in card


def test_a_resumed_run_has_no_figure_from_before_training() -> None:
    manifest = manifest_of_a_run()
    manifest["result"]["held_out_accuracy"] = (None, 0.5)

    assert "| 50.0% (95% CI 33.6-66.4%), n=32 |" in trained_card("mine", manifest)


def test_the_card_of_a_training_run_keeps_its_words(make_result, model: Path) -> None:
    card = trained_card("mine", manifest_of_a_run())
    (model / "README.md").write_text(card)

    path = update_model_card(model, make_result(20, wrong=[0], teacher_wrong=[1]))

    head = head_of(path)
    assert head["library_name"] == "peft"
    assert head["tags"] == head_of_text(card)["tags"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.95
    text = path.read_text()
    assert card.split("---", 2)[2].strip() in text
    assert "## Evaluation" in text


def test_an_export_says_how_it_was_proved_and_what_it_scores(make_result, model: Path) -> None:
    pair = ("base", "merged", "differ", "1.5000")

    card = exported_card(
        "mine", manifest_of_a_run(), make_result(20, wrong=[0]), [pair], is_quantised=True
    )

    assert head_of_text(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.95
    assert "| base | merged | differ | 1.5000 |" in card
    assert "W4A16" in card
    (model / "README.md").write_text(card)
    assert update_model_card(model, make_result(20)).read_text().count("## Evaluation") == 1


def test_a_second_evaluation_replaces_the_first(make_result, model: Path) -> None:
    update_model_card(model, make_result(20, wrong=[0]))
    path = update_model_card(model, make_result(20))

    assert path.read_text().count("## Evaluation") == 1
    metrics = head_of(path)["model-index"][0]["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in metrics}["accuracy"] == 1.0


def test_a_model_without_a_card_gets_one(make_result, model: Path) -> None:
    (model / "README.md").unlink()

    assert update_model_card(model, make_result(5)).is_file()


def test_a_project_that_is_no_model_keeps_its_readme(make_result, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")

    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="no model at"):
            update_model_card(folder, make_result(5))
    assert (tmp_path / "README.md").read_text() == "# My project\n"
