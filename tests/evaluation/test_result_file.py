import dataclasses
import json
from pathlib import Path

import pytest

from prompt_distillation.config.evaluate_config import EvaluateConfig
from prompt_distillation.data.inputs import Input
from prompt_distillation.data.result_files import check_output, read_result, write_result
from prompt_distillation.data.results import Result
from prompt_distillation.errors import ConfigError, InputError, OutputExistsError
from prompt_distillation.evaluation.evaluator import build_result
from prompt_distillation.evaluation.selection import read_labelled_data, select


@pytest.fixture
def result(tmp_path, language_task, make_prediction) -> Result:
    inputs = [Input(index=i, text=f"text {i}", group=f"g{i}", gold="fr") for i in range(4)]
    training = read_labelled_data(tmp_path / "none.jsonl")
    selection = select(inputs, training, split="all", max_samples=None, truth=None)
    predictions = tuple(
        make_prediction("fr", answer, index=i, teacher="fr", teacher_asked=True)
        for i, answer in enumerate(["fr", "de", None, "fr"])
    )
    return build_result(
        selection,
        predictions,
        task=language_task,
        base_model="b",
        config=EvaluateConfig.of(model_path="m", test_file="t.txt", train_data_file="d.jsonl"),
    )


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "r.json"

    assert write_result(path, result) is None

    assert read_result(path) == result


def test_the_documented_keys_are_there(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "r.json"
    write_result(path, result)

    value = json.loads(path.read_text())

    assert list(value)[:6] == [
        "model_path",
        "base_model",
        "test_file",
        "train_data_file",
        "timestamp",
        "summary",
    ]
    assert {
        "total_samples",
        "predicted",
        "unparseable",
        "parse_rate",
        "accuracy",
        "correct",
        "evaluated",
    } <= set(value["summary"])
    assert {"labels", "matrix_2d", "matrix_dict"} == set(value["confusion_matrix"])
    assert {"accuracy", "correct", "total", "error_examples"} <= set(
        value["per_language_accuracy"]["fr"]
    )
    assert value["worst_performing_languages"][0]["language"] == "fr"
    assert len(value["predictions"]) == 4


def test_earlier_results_are_kept_under_numbers(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "r.json"
    path.write_text("first")

    assert write_result(path, result) == tmp_path / "r.1.json"
    assert write_result(path, dataclasses.replace(result, task="other")) == tmp_path / "r.2.json"

    assert (tmp_path / "r.1.json").read_text() == "first"
    assert read_result(tmp_path / "r.2.json").task == "language"
    assert read_result(path).task == "other"


def test_a_folder_or_a_device_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        check_output(tmp_path, [])
    with pytest.raises(ConfigError, match="not a file"):
        check_output(Path("/dev/full"), [])


def test_only_a_result_may_be_replaced_and_no_input(tmp_path: Path, result: Result) -> None:
    dataset = tmp_path / "dataset.jsonl"
    dataset.write_text('{"messages": []}\n')
    write_result(tmp_path / "r.json", result)

    check_output(tmp_path / "r.json", [dataset, None])
    with pytest.raises(OutputExistsError, match=r"dataset\.jsonl"):
        check_output(dataset, [])
    with pytest.raises(ConfigError, match="would overwrite"):
        check_output(tmp_path / "r.json", [tmp_path / "r.json"])


def test_a_file_of_an_earlier_version_may_lack_what_came_later(
    tmp_path: Path, result: Result
) -> None:
    path = tmp_path / "r.json"
    write_result(path, result)
    value = json.loads(path.read_text())
    for prediction in value["predictions"]:
        del prediction["first_token_seconds"]
    path.write_text(json.dumps(value))

    assert read_result(path) == result


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema_version": 1}', "nonsense"])
def test_other_files_are_no_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)

    with pytest.raises(InputError, match=r"r\.json"):
        read_result(path)
