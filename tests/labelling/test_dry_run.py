import io

from labelling.scripted import QUIET, ScriptedEngine, answer, make_job, write_inputs
from rich.console import Console

from prompt_distillation.labelling.dry_run import Look, dry_run
from prompt_distillation.labelling.estimate import Prices
from prompt_distillation.labelling.run import create_dataset


def look_at(folder, engine: ScriptedEngine, **options) -> str:
    """What a dry run prints: a word is a token, the turns are joined by a bar."""
    output = io.StringIO()
    look = Look(
        render=lambda turns: " | ".join(turn["content"] for turn in turns),
        count_tokens=lambda text: len(text.split()),
        **options,
    )
    dry_run(make_job(folder), engine.open, look, Console(file=output, width=100))
    return output.getvalue()


def test_three_prompts_and_their_tokens_without_a_teacher(tmp_path):
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


def test_a_hostile_input_cannot_steer_the_terminal(tmp_path):
    (tmp_path / "inputs.txt").write_text("a\x1b[2Jb\n", encoding="utf-8")
    shown = look_at(tmp_path, ScriptedEngine(), probe_samples=0)
    assert r"a\x1b[2Jb" in shown
    assert "\x1b" not in shown


def test_the_probe_is_scaled_to_what_is_left_and_not_paid_twice(tmp_path):
    write_inputs(tmp_path, 60)
    engine = ScriptedEngine(lambda _: answer("fr"))
    prices = Prices(per_gpu_hour=3.0, per_million_input_tokens=1.0, per_million_output_tokens=10.0)
    shown = look_at(tmp_path, engine, probe_samples=10, gpus=4, prices=prices)
    assert len(engine.requests) == 10
    assert "1.00 requests an input" in shown
    # 1,500 prompt tokens and 8 new ones an input, as the scripted teacher tells.
    assert "50 distinct inputs: about 75,000 prompt tokens and 400 new ones" in shown
    assert "GPU-hours" in shown
    assert "about 0.08 by the token" in shown
    assert not (tmp_path / "out.jsonl").exists()
    rest = ScriptedEngine(lambda _: answer("fr"))
    create_dataset(make_job(tmp_path), rest.open, overwrite=False, reporting=QUIET)
    assert len(rest.requests) == 50


def test_a_price_of_gpus_without_a_gpu_is_not_dropped_in_silence(tmp_path):
    write_inputs(tmp_path, 6)
    engine = ScriptedEngine(lambda _: answer("fr"))
    shown = look_at(tmp_path, engine, probe_samples=2, prices=Prices(per_gpu_hour=3.0))
    assert shown.count("--price_per_gpu_hour is not used") == 1
    assert "GPU-hours" not in shown
    assert "--price_per_gpu_hour" not in look_at(tmp_path, engine, probe_samples=2)


def test_a_probe_that_was_paid_before_measures_no_time(tmp_path):
    write_inputs(tmp_path, 20)
    engine = ScriptedEngine(lambda _: answer("fr"))
    look_at(tmp_path, engine, probe_samples=5)
    shown = look_at(tmp_path, engine, probe_samples=5)
    assert len(engine.requests) == 5
    assert "not measured" in shown
