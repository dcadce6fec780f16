import io

import pytest
from labelling.scripted import ScriptedEngine, answer, run_label, settings, write_inputs
from rich.console import Console

from prompt_distillation.labelling import pipeline
from prompt_distillation.labelling.cost_estimate import PromptReader


@pytest.fixture
def look_at(monkeypatch):
    """A function that returns what a dry run prints.

    A word is a token, and the turns are joined by a bar.
    """

    def dry_run(folder, engine: ScriptedEngine, *, gpus: int = 0, **values) -> str:
        reader = PromptReader(
            render=lambda turns: " | ".join(turn["content"] for turn in turns),
            count_tokens=lambda text: len(text.split()),
            gpus=gpus,
        )
        monkeypatch.setattr(pipeline, "open_prompt_reader", lambda _: reader)
        output = io.StringIO()
        console = Console(file=output, width=100)
        config = settings(folder, dry_run=True, held_out=0.0, **values)
        result = pipeline.label(config, open_teacher=engine.open, console=console)
        assert (result.state, result.counts) == ("dry run", None)
        return output.getvalue()

    return dry_run


def test_three_prompts_and_their_tokens_without_a_teacher(tmp_path, look_at):
    write_inputs(tmp_path, 60)
    engine = ScriptedEngine()
    shown = look_at(tmp_path, engine, probe_samples=0)
    assert shown.count("Every text gets exactly one label") == 1
    assert [f"| sentence number {n}\n" in shown for n in (0, 1)] == [True, False]
    assert "characters as above ...]20" in shown
    assert "characters as above ...]40" in shown
    assert "over 60 inputs" in shown
    assert engine.opened == 0
    assert {path.name for path in tmp_path.iterdir()} == {"inputs.txt"}


def test_a_hostile_input_cannot_steer_the_terminal(tmp_path, look_at):
    (tmp_path / "inputs.txt").write_text("a\x1b[2Jb\n", encoding="utf-8")
    shown = look_at(tmp_path, ScriptedEngine(), probe_samples=0)
    assert r"a\x1b[2Jb" in shown
    assert "\x1b" not in shown


def test_the_probe_is_scaled_to_what_is_left_and_not_paid_twice(tmp_path, look_at):
    write_inputs(tmp_path, 60)
    engine = ScriptedEngine(lambda _: answer("fr"))
    prices = {
        "price_per_gpu_hour": 3,
        "price_per_million_input_tokens": 1,
        "price_per_million_output_tokens": 10,
    }
    shown = look_at(tmp_path, engine, probe_samples=10, gpus=4, **prices)
    assert len(engine.requests) == 10
    assert "1.00 requests per input" in shown
    # 1,500 prompt tokens and 8 new ones an input, as the scripted teacher tells.
    assert "50 distinct inputs: about 75,000 prompt tokens and 400 new ones" in shown
    assert "GPU hours" in shown
    assert "about 0.08 at the price per token" in shown
    assert not (tmp_path / "out.jsonl").exists()
    _, rest = run_label(tmp_path, ScriptedEngine(lambda _: answer("fr")), held_out=0.0)
    assert len(rest.requests) == 50


def test_a_price_of_gpus_without_a_gpu_is_not_dropped_in_silence(tmp_path, look_at):
    write_inputs(tmp_path, 6)
    engine = ScriptedEngine(lambda _: answer("fr"))
    shown = look_at(tmp_path, engine, probe_samples=2, price_per_gpu_hour=3)
    assert shown.count("--price_per_gpu_hour is not used") == 1
    assert "GPU hours" not in shown
    assert "--price_per_gpu_hour" not in look_at(tmp_path, engine, probe_samples=2)


def test_a_probe_that_was_paid_before_measures_no_time(tmp_path, look_at):
    write_inputs(tmp_path, 20)
    engine = ScriptedEngine(lambda _: answer("fr"))
    look_at(tmp_path, engine, probe_samples=5)
    shown = look_at(tmp_path, engine, probe_samples=5)
    assert len(engine.requests) == 5
    assert "not measured" in shown
