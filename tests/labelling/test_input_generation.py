import json
from collections import Counter
from pathlib import Path

import pytest
from labelling.scripted import ScriptedEngine, completion, dice

from prompt_distillation.config.generate_config import GenerateConfig
from prompt_distillation.data.inputs import read_inputs
from prompt_distillation.data.near_duplicates import similarity
from prompt_distillation.engines import RequestFailedError
from prompt_distillation.errors import ConfigError, EngineError, InputError, OutputExistsError
from prompt_distillation.labelling.input_generation import (
    example_sets,
    generate_inputs,
    read_list,
)

QUESTIONS = Path(__file__).parents[2] / "tasks" / "beethoven" / "questions.yaml"
EXAMPLES = [
    "When does the ferry leave?", "Why is my parcel late?", "Can I bring a dog on board?",
    "Who do I call about a refund?", "How large may my suitcase be?", "Is there food at night?",
]  # fmt: skip
WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty",
    "knoll", "ledge", "maple", "notch",
)  # fmt: skip


def novel(request):
    """Three new lines a request, which depend on the request."""
    number, lines = dice(request), []
    for place in range(3):
        chosen = [WORDS[number // 14 ** (place + power) % 14] for power in range(4)]
        lines.append(f"{place + 1}. Tell me of the {' and the '.join(chosen)}")
    return completion("I think of new ones.\n</think>\n\nHere they are:\n" + "\n".join(lines))


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def templates_config(folder, **values):
    return GenerateConfig.of(
        **{"templates": QUESTIONS, "output_file": folder / "out.jsonl", "num_inputs": 500} | values
    )


def grow(folder, engine=None, **values):
    """Grow `EXAMPLES` with ``engine``; returns the result, and who was asked."""
    folder.mkdir(exist_ok=True)
    (folder / "examples.txt").write_text("\n".join(EXAMPLES) + "\n")
    engine = engine or ScriptedEngine(novel)
    defaults = {
        "examples": folder / "examples.txt", "output_file": folder / "out.jsonl",
        "num_inputs": 60, "model_name": "scripted", "inputs_per_request": 3,
    }  # fmt: skip
    return generate_inputs(GenerateConfig.of(**defaults | values), open_teacher=engine.open), engine


def test_five_thousand_distinct_questions_in_five_balanced_categories(tmp_path):
    result = generate_inputs(templates_config(tmp_path, num_inputs=5000))
    rows = rows_of(result.output_file)
    assert result.coverage == dict.fromkeys(
        ("biographical", "musical", "historical", "creative", "personal"), 1000
    )
    assert len({row["text"].casefold() for row in rows}) == 5000
    of_templates = Counter(row["group"] for row in rows)
    assert max(of_templates.values()) < 3 * 5000 / len(of_templates)
    # What create_data.py reads: the template is the group, which a split never cuts.
    assert [item.group for item in read_inputs(result.output_file)] == [
        row["group"] for row in rows
    ]


def test_the_same_seed_gives_the_same_file_and_another_another(tmp_path):
    made = [
        generate_inputs(templates_config(tmp_path / str(number), seed=seed))
        for number, seed in enumerate((0, 0, 1))
    ]
    one, same, other = (result.output_file.read_bytes() for result in made)
    assert one == same != other


def test_no_two_questions_are_near_duplicates(tmp_path):
    result = generate_inputs(templates_config(tmp_path, num_inputs=150))
    texts = [row["text"] for row in rows_of(result.output_file)]
    pairs = [(one, other) for place, one in enumerate(texts) for other in texts[:place]]
    assert max(similarity(*pair) for pair in pairs) < 0.85
    assert json.loads(result.manifest.read_text())["near_duplicates"]["threshold"] == 0.85


def test_too_few_combinations_are_an_error_that_names_how_many(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text("slots: {who: [Bach, Handel]}\ncategories: {a: ['Who was {who}?']}")
    with pytest.raises(InputError, match=r"only 2 of 10 inputs .* have 2 texts.*--num_inputs 2"):
        generate_inputs(templates_config(tmp_path, templates=path, num_inputs=10))
    assert not (tmp_path / "out.jsonl").exists()


def test_inputs_that_are_there_are_replaced_only_when_told_to(tmp_path):
    config = templates_config(tmp_path)
    generate_inputs(config)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        generate_inputs(config)
    generate_inputs(templates_config(tmp_path, seed=3, overwrite=True))
    (tmp_path / "out.jsonl").write_text('{"text": "mine"}\n')
    with pytest.raises(OutputExistsError, match="not written by this command"):
        generate_inputs(templates_config(tmp_path, overwrite=True))


def test_examples_are_never_written_over(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"text": "mine"}\n')
    with pytest.raises(ConfigError, match="would overwrite"):
        generate_inputs(
            GenerateConfig.of(examples=path, output_file=path, num_inputs=5, overwrite=True)
        )


def test_examples_grow_into_inputs_of_the_group_that_was_shown(tmp_path):
    result, engine = grow(tmp_path)
    rows = rows_of(result.output_file)
    assert result.count == len(rows) == len({row["text"] for row in rows}) == 60
    assert {row["text"] for row in rows[:6]} == set(EXAMPLES)
    groups = {row["text"]: row["group"] for row in rows[:6]}
    for request in engine.requests:
        shown = [text for text in EXAMPLES if text in request.messages[-1]["content"]]
        assert len(shown) == 3
        assert len({groups[text] for text in shown}) == 1
    assert result.coverage.keys() == {"examples-000", "examples-001"}
    assert result.requests < 40


def test_a_run_that_lost_its_engine_goes_on_and_ends_with_the_same_file(tmp_path):
    whole, _ = grow(tmp_path / "whole")

    class Dies(ScriptedEngine):
        async def complete(self, request):
            if len(self.requests) == 9:
                raise EngineError("the machine is gone")
            return await super().complete(request)

    with pytest.raises(EngineError):
        grow(tmp_path / "cut", Dies(novel))
    resumed, engine = grow(tmp_path / "cut")
    assert resumed.output_file.read_bytes() == whole.output_file.read_bytes()
    assert len(engine.requests) < whole.requests


def test_more_inputs_than_before_are_asked_for_on_top_of_what_was_paid_for(tmp_path):
    first, _ = grow(tmp_path)
    before = rows_of(first.output_file)
    second, engine = grow(tmp_path, num_inputs=90, overwrite=True)
    assert rows_of(second.output_file)[: first.count] == before
    assert 0 < len(engine.requests) <= second.requests - first.requests


def test_a_model_that_repeats_itself_is_given_up_and_the_count_is_named(tmp_path):
    engine = ScriptedEngine(lambda request: completion("</think>\nAlways the same question"))
    with pytest.raises(InputError, match=r"only 7 of 60 inputs .* last 20 of"):
        grow(tmp_path, engine, idle_requests=20)
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.journal.jsonl").exists()


def test_requests_that_fail_or_bring_nothing_do_not_end_the_run(tmp_path):
    def moody(request):
        if dice(request) % 3 == 0:
            raise RequestFailedError("busy")
        return novel(request)

    result, _ = grow(tmp_path, ScriptedEngine(moody))
    assert result.count == 60


def test_the_model_is_told_what_the_inputs_are_for(tmp_path):
    task = QUESTIONS.parents[1] / "persona"
    _, engine = grow(tmp_path, task=task, instructions="Only questions about fog.")
    prompt = engine.requests[0].messages[0]["content"]
    assert "You are Maren Holt" in prompt
    assert "Only questions about fog." in prompt


def test_lists_are_read_without_marks_headings_and_quotation_marks():
    answer = 'Here are some:\n\n- one\n* two\n3) "three"\n(4) „vier“\n---\n**\n12. twelve o\'clock'
    assert list(read_list(answer)) == ["one", "two", "three", "vier", "twelve o'clock"]


def test_no_example_is_in_two_sets():
    sets = example_sets([str(number) for number in range(11)], size=3, seed=0)
    shown = [text for one in sets for text in one.texts]
    assert sorted(shown, key=int) == [str(number) for number in range(11)]
    assert [len(one.texts) for one in sets] == [4, 4, 3]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "pass either --templates FILE"),
        ({"templates": "a.yaml", "examples": "b.txt"}, "pass either --templates FILE"),
        ({"examples": "b.txt", "temperature": 0}, "--temperature is 0"),
        ({"templates": "a.yaml", "output_file": "inputs.txt"}, "ends in .jsonl"),
        ({"examples": "b.txt", "engine": "server"}, "--engine server needs --server_url"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ConfigError) as error:
        GenerateConfig.of(**values)
    assert said in str(error.value)
