import pytest
from rich.console import Console

from prompt_distillation.commands.train import TrainConfig
from prompt_distillation.commands.train_settings import run_settings
from prompt_distillation.training.memory import GIB
from prompt_distillation.training.plan import plan_run, show_plan


@pytest.fixture
def settings(train_file, student, tmp_path):
    config = TrainConfig(
        train_file=train_file,
        model_name=str(student),
        output_dir=tmp_path / "run",
        lora_expert_rank=32,
    )
    return run_settings(config, {}, None)


def test_a_run_that_does_not_fit_gets_the_cheapest_flags_that_make_it_fit(settings):
    roomy = plan_run(settings, capacity_gib=80.0, on_gpu=False)
    assert roomy.fits
    assert roomy.proposal is None
    assert roomy.rows == 48
    assert roomy.steps == 3
    tight = plan_run(settings, capacity_gib=roomy.account.total / GIB, on_gpu=False)
    assert not tight.fits
    flags, total = tight.proposal
    assert flags[0] == "--lora_expert_rank none"
    assert total < roomy.account.total * 0.95


def test_what_nothing_helps_gets_no_proposal(settings):
    hopeless = plan_run(settings, capacity_gib=1e-6, on_gpu=False)
    assert not hopeless.fits
    assert hopeless.proposal is None


def test_four_bits_are_proposed_before_the_adapter_shrinks_and_their_saving_is_said(
    settings, capsys
):
    config = TrainConfig(
        train_file=settings.train_file, model_name=settings.model.name, load_in_4bit=True
    )
    quantised = plan_run(
        run_settings(config, {"optim": "adamw_8bit"}, None), capacity_gib=80.0, on_gpu=False
    )
    just_enough = quantised.account.total / GIB / 0.95 * 1.001
    flags, total = plan_run(settings, capacity_gib=just_enough, on_gpu=False).proposal
    assert flags[-1] == "--load_in_4bit"
    assert total == quantised.account.total
    show_plan(Console(), quantised)
    assert "4 bits save" in capsys.readouterr().out
    saved = quantised.base_unquantised.total - quantised.base.total
    assert 0 < saved < quantised.base_unquantised.total
