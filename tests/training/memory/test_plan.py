import os

import pytest
import torch
from rich.console import Console

from prompt_distillation.config.train_config import TrainConfig
from prompt_distillation.errors import ConfigError
from prompt_distillation.machine import GIB
from prompt_distillation.training import flops
from prompt_distillation.training.loading import prepare
from prompt_distillation.training.loss_log import show_plan
from prompt_distillation.training.memory import plan
from prompt_distillation.training.memory.plan import (
    MicroBatch,
    cut_rows,
    device_memory_gib,
    fill_micro_batch,
    plan_run,
    settle_checkpointing,
)


@pytest.fixture
def settings(train_file, student, tmp_path):
    config = TrainConfig.of(
        train_file=train_file,
        model_name=str(student),
        output_dir=tmp_path / "run",
        lora_expert_rank=24,
        gradient_checkpointing=True,
    )
    return prepare(config, {})


def test_a_run_that_does_not_fit_gets_the_cheapest_flags_that_make_it_fit(settings):
    roomy = plan_run(settings, capacity_gib=80.0, on_gpu=False)
    assert roomy.fits
    assert roomy.proposal is None
    assert roomy.rows == 48
    assert roomy.steps == 3
    tight = plan_run(settings, capacity_gib=roomy.memory.total / GIB, on_gpu=False)
    assert not tight.fits
    flags, total = tight.proposal
    assert flags[0] == "--lora_expert_rank none"
    assert total < roomy.memory.total * 0.95


def test_what_nothing_helps_gets_no_proposal(settings):
    hopeless = plan_run(settings, capacity_gib=1e-6, on_gpu=False)
    assert not hopeless.fits
    assert hopeless.proposal is None


def test_the_proposal_is_the_account_of_the_run_with_its_flags_and_has_none_to_spare(
    settings, capsys
):
    flags = {"load_in_4bit": True, "gradient_checkpointing": True}
    quantised = plan_run(with_flags(settings, **flags), capacity_gib=80.0, on_gpu=False)
    just_enough = quantised.memory.total / GIB / 0.95 * 1.001
    plan = plan_run(settings, capacity_gib=just_enough, on_gpu=False)
    # The steps before it in the list do not help enough, and are not asked for beside it.
    assert plan.proposal == (
        ["--lora_expert_rank none", "--load_in_4bit"], quantised.memory.total,
    )  # fmt: skip
    show_plan(Console(), quantised)
    assert "4 bits save" in capsys.readouterr().out
    saved = quantised.base_unquantised.total - quantised.base.total
    assert 0 < saved < quantised.base_unquantised.total


@pytest.mark.parametrize("on_gpu", [False, True])
def test_activations_are_kept_where_they_fit_with_room_to_spare(settings, on_gpu):
    asked, kept, recomputed = (
        with_flags(settings, gradient_checkpointing=value) for value in (None, False, True)
    )
    sizes = [
        plan_run(one, capacity_gib=80.0, on_gpu=on_gpu).memory.total for one in (kept, recomputed)
    ]
    assert sizes[0] > sizes[1]
    for share_of_card, wanted in ((0.89, False), (0.91, True)):
        card = {"capacity_gib": sizes[0] / GIB / share_of_card, "on_gpu": on_gpu}
        settled = settle_checkpointing(asked, **card)
        assert settled.config.gradient_checkpointing is wanted
        planned = plan_run(asked, **card)
        assert planned.gradient_checkpointing is wanted
        assert planned.memory.total == sizes[wanted]
        for said in (kept, recomputed):
            assert settle_checkpointing(said, **card) == said


def test_what_cannot_be_counted_is_trained_all_the_same(settings, monkeypatch, caplog):
    def fail(*arguments):
        raise NotImplementedError("no shape without data")

    monkeypatch.setattr(plan, "estimate_memory", fail)
    asked = with_flags(settings)
    settled = settle_checkpointing(asked, on_gpu=False)
    assert settled.config.gradient_checkpointing is True
    assert "Qwen3MoeConfig (no shape without data)" in caplog.text


def test_code_that_comes_with_a_model_is_not_run_to_count_it(settings, monkeypatch, caplog):
    monkeypatch.setattr(plan, "estimate_memory", lambda *arguments: pytest.fail("counted"))
    asked = with_flags(settings, trust_remote_code=True)
    settled = settle_checkpointing(asked, on_gpu=False)
    assert settled.config.gradient_checkpointing is True
    assert "its code is its own" in caplog.text


def test_processes_share_the_memory_of_a_machine(monkeypatch):
    monkeypatch.delenv(
        "LOCAL_WORLD_SIZE", raising=False
    )  # vLLM leaves it to the tests after its own
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 14}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert device_memory_gib(on_gpu=False) == 2**-4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert device_memory_gib(on_gpu=False) == 2**-6


def test_a_proposal_counts_activations_as_the_run_with_it_would(settings):
    asked = with_flags(settings, lora_rank=4, lora_expert_rank=24, gradient_checkpointing=True)
    # The allocator's fragments have no room.
    tight = plan_run(asked, capacity_gib=80.0, on_gpu=False).memory.total / GIB
    asked = with_flags(settings, lora_rank=4, lora_expert_rank=24)
    plan = plan_run(asked, capacity_gib=tight, on_gpu=False)
    flags, total = plan.proposal
    assert flags == ["--lora_expert_rank none"]
    run = with_flags(settings, lora_rank=4)
    assert total == plan_run(run, capacity_gib=tight, on_gpu=False).memory.total


def test_smaller_batches_and_an_adapter_are_counted_with_all_that_follows_from_them(settings):
    full = with_flags(settings, use_lora=False, max_length=256)
    counted = {
        name: plan_run(changed, capacity_gib=80.0, on_gpu=True).memory.total
        for name, changed in {
            "full": full,
            "one row": with_flags(
                settings, use_lora=False, max_length=256, per_device_train_batch_size=1,
                gradient_accumulation_steps=16,
            ),
            "adapter": with_flags(settings, max_length=256),
        }.items()
    }  # fmt: skip
    total = {}
    for way in plan.WAYS:
        changes = way(plan._values(full))
        if {"per_device_train_batch_size", "use_lora"} & changes.keys():
            changed = plan_run(plan.with_flags(full, changes), capacity_gib=80.0, on_gpu=True)
            total[tuple(changes)] = changed.memory.total
    assert total == {
        ("per_device_train_batch_size", "gradient_accumulation_steps"): counted["one row"],
        # On a GPU the frozen base is in bfloat16.
        ("use_lora",): counted["adapter"],
    }
    assert counted["adapter"] < counted["full"]


@pytest.mark.parametrize(
    ("flags", "ms_a_layer"),
    [
        ({"gradient_checkpointing": False}, 7.5),
        ({"gradient_checkpointing": True}, 11),
        ({"gradient_checkpointing": True, "load_in_4bit": True}, 41),
    ],
)
def test_few_tokens_take_the_time_of_their_launches_and_many_that_of_their_arithmetic(
    settings, monkeypatch, flags, ms_a_layer
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(flops, "peak_flops", lambda device: 1e15)
    changed = with_flags(settings, **flags)
    few = plan_run(changed, capacity_gib=80.0, on_gpu=True)
    assert few.seconds == pytest.approx(few.steps * 2 * ms_a_layer / 1000)  # two layers
    monkeypatch.setattr(flops, "peak_flops", lambda device: 1e6)
    slow = [plan_run(changed, capacity_gib=80.0, on_gpu=True).seconds]
    monkeypatch.setattr(flops, "peak_flops", lambda device: 2e6)
    slow.append(plan_run(changed, capacity_gib=80.0, on_gpu=True).seconds)
    assert slow[0] == pytest.approx(2 * slow[1])


def test_steps_of_a_cut_run_of_a_part_of_an_epoch_and_of_packed_rows(settings):
    def planned(sft, **flags):
        return plan_run(with_flags(settings, sft, **flags), capacity_gib=80.0, on_gpu=False)

    assert planned({"max_steps": 2}).steps == 2
    assert planned({}, num_train_epochs=0.5).steps == 2  # of 3 in an epoch
    packed = planned({"packing": True}, max_length=64)
    sequences = -(-packed.tokens // 64)
    assert packed.micro_batch == MicroBatch(4, 4)
    assert packed.steps == -(-sequences // 16)
    assert packed.tokens_per_step == pytest.approx(16 * 64, rel=0.1)


def test_a_step_of_so_many_tokens_has_the_rows_that_hold_them(settings):
    rows = settings.rows
    tokens = 12 * rows.tokens / len(rows.rows)
    plan = plan_run(
        with_flags(settings, tokens_per_step=round(tokens)), capacity_gib=80.0, on_gpu=False
    )
    assert plan.micro_batch == MicroBatch(12, 1)
    assert plan.tokens_per_step == pytest.approx(tokens, rel=0.01)
    more_than_there_is = with_flags(settings, tokens_per_step=10**9)
    assert plan_run(more_than_there_is, capacity_gib=80.0, on_gpu=False).steps == 1
    with pytest.raises(ConfigError, match="--tokens_per_step does not go with --packing"):
        plan_run(
            with_flags(settings, {"packing": True}, tokens_per_step=100),
            capacity_gib=80.0,
            on_gpu=False,
        )


def test_a_teacher_in_memory_is_counted_and_its_rows_are_padded(settings):
    flags = {"method": "on_policy", "per_device_train_batch_size": 2}
    alone, beside, served = (
        plan_run(with_flags(settings, **flags, **teacher), capacity_gib=80.0, on_gpu=False)
        for teacher in (
            {},
            {"teacher_model": settings.config.model.model_name},
            {"teacher_model": "served", "teacher_server_url": "http://localhost:9/v1"},
        )
    )
    assert alone.micro_batch == MicroBatch(2, 4)
    assert beside.memory.teacher == beside.memory.weights
    assert beside.memory.total == alone.memory.total + beside.memory.weights
    assert served.memory.total == alone.memory.total


def test_a_step_is_cut_into_equal_passes_that_fit():
    assert cut_rows([100] * 50, 12, max_tokens=1200) == MicroBatch(12, 1)
    assert cut_rows([100] * 50, 12, max_tokens=700) == MicroBatch(6, 2)
    assert cut_rows([100] * 50, 13, max_tokens=700) == MicroBatch(7, 2)
    assert cut_rows([1000] + [10] * 50, 12, max_tokens=900) == MicroBatch(1, 12)


def with_flags(settings, sft=None, **flags):
    """The run of the same rows with other flags than the fixture's."""
    given = settings.config
    config = TrainConfig.of(
        train_file=given.train_file, model_name=given.model.model_name, eval_file="none", **flags
    )
    return prepare(config, sft or {})


def fill(lengths, max_tokens, *, rows=4, steps=4):
    return fill_micro_batch(lengths, MicroBatch(rows, steps), max_tokens=max_tokens)


def test_short_rows_make_one_pass_of_the_whole_step():
    assert fill([30] * 100, 8192) == MicroBatch(16, 1)


def test_the_longest_rows_may_meet_and_must_fit():
    assert fill([2000] * 8 + [10] * 100, 8192) == MicroBatch(4, 4)
    assert fill([2000] * 3 + [10] * 100, 8192) == MicroBatch(16, 1)
    assert fill([800] * 100, 8192) == MicroBatch(8, 2)


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_effective_batch_stays(steps):
    for max_tokens in (100, 500, 1000, 5000):
        batch = fill([40] * 500, max_tokens, rows=3, steps=steps)
        assert batch.rows * batch.accumulation_steps == 3 * steps
