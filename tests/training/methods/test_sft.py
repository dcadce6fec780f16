"""The loss and gradients of filled passes against TRL's own padded ones."""

import pytest
import torch
from datasets import Dataset
from training.tiny_student import build_student, write_rows
from trl import SFTConfig, SFTTrainer

from prompt_distillation.config.train_config import LoraSettings
from prompt_distillation.data.chat_rows import read_chat_rows
from prompt_distillation.engines.prompts import end_of_turn_ids
from prompt_distillation.training.encode import encode_rows
from prompt_distillation.training.lora.adapter import adapt
from prompt_distillation.training.methods.sft import AnswerTrainer

LORA = LoraSettings(lora_rank=8, lora_expert_rank=4, lora_targets="all-linear")


@pytest.fixture(scope="module")
def rows(tokenizer, tmp_path_factory):
    path = write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 24)
    encoded = encode_rows(
        read_chat_rows(path), tokenizer, stop_ids=end_of_turn_ids(tokenizer, None), max_length=256
    )
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in encoded.rows],
            "labels": [row.labels for row in encoded.rows],
        }
    )


def adapted_student(kind, vocabulary):
    model = build_student(kind, vocabulary)
    model = adapt(model, LORA)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, so that only it would have a gradient
                parameter.normal_(std=0.02, generator=generator)
    return model


def train(trainer_type, kind, rows, tokenizer, folder, **options):
    arguments = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        learning_rate=1e-3,
        num_train_epochs=1,
        max_length=None,
        router_aux_loss_coef=0.0 if kind == "qwen3_moe" else None,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        **options,
    )
    model = adapted_student(kind, len(tokenizer))
    trainer = trainer_type(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def losses(trainer, key="loss"):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen3", "gpt2"])
def test_filled_passes_train_what_trl_trains_row_by_row(kind, rows, tokenizer, tmp_path):
    plain = train(
        SFTTrainer,
        kind,
        rows,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    filled = train(
        AnswerTrainer,
        kind,
        rows,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        padding_free=True,
    )
    assert losses(filled) == pytest.approx(losses(plain), abs=2e-5)
    # Adam divides the gradient by its size: equal norms and equal weights after three steps say
    # that every gradient was the same.
    assert losses(filled, "grad_norm") == pytest.approx(losses(plain, "grad_norm"), rel=1e-3)
    theirs = dict(plain.model.named_parameters())
    for name, parameter in filled.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter, theirs[name], atol=5e-5, rtol=1e-3, msg=name)


def test_rows_in_one_pass_do_not_see_each_other(tokenizer):
    model = adapted_student("qwen3_moe", len(tokenizer)).eval()
    first, second = torch.arange(10, 30), torch.arange(50, 63)
    positions = torch.cat([torch.arange(20), torch.arange(13)])
    together = model(
        input_ids=torch.cat([first, second])[None], position_ids=positions[None], use_cache=False
    )
    alone = model(input_ids=second[None])
    torch.testing.assert_close(together.logits[0, 20:], alone.logits[0], atol=1e-5, rtol=1e-4)


def test_the_held_out_loss_is_the_mean_over_tokens_whatever_the_batch(rows, tokenizer, tmp_path):
    trainer = train(
        AnswerTrainer,
        "qwen3_moe",
        rows,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=7,
        padding_free=True,
        max_steps=1,
    )
    measured = trainer.evaluate()["eval_loss"]
    nll = tokens = 0.0
    model = trainer.model.eval()
    for row in rows:
        labels = torch.tensor(row["labels"])
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        scores = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
        nll += scores.item()
        tokens += (labels[1:] != -100).sum().item()
    assert measured == pytest.approx(nll / tokens, rel=1e-5)


def test_the_log_holds_speed_and_memory(rows, tokenizer, tmp_path):
    trainer = train(
        AnswerTrainer,
        "qwen3_moe",
        rows,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=8,
        padding_free=True,
    )
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 3
    for entry in entries:
        assert entry["tokens_per_second"] > 0
        assert entry["rows_per_second"] > 0
        assert entry["peak_memory_gib"] > 0
    assert entries[-1]["num_tokens"] == sum(map(len, rows["input_ids"]))
