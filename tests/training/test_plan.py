import pytest

from prompt_distillation.commands.train import TrainConfig
from prompt_distillation.commands.train_settings import run_settings
from prompt_distillation.training.memory import GIB
from prompt_distillation.training.plan import plan_run


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
