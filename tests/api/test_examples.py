"""The examples of the API's docstrings and the notebook, run as a user would."""

import doctest
from pathlib import Path

import pytest

import prompt_distillation as pd

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the example data and models, for paths as the examples have them."""
    for name in ("example-data", "example-models", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_examples_of_the_docstrings_work_one_after_the_other(checkout):
    names = {name: getattr(pd, name) for name in pd.__all__}
    steps = (pd.generate_inputs, pd.inspect_data, pd.label, pd.train, pd.evaluate)
    for item in (pd.load_task, *steps, pd.Student, pd.compare, pd.probe, pd.improve):
        examples = doctest.DocTestParser().get_examples(item.__doc__ or "")
        assert examples, f"{item.__name__} has no example"
        for example in examples:
            if example.want:
                assert repr(eval(example.source, names)) == example.want.strip()
            else:
                exec(example.source, names)


@pytest.mark.slow
@pytest.mark.vllm
def test_the_notebook_goes_from_the_data_to_a_distilled_student(checkout, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(Path(pd.__file__).parents[1]))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(checkout)}})
    client.execute()

    texts = ["".join(output.get("text", "") for output in cell.get("outputs", []))
             for cell in notebook.cells]  # fmt: skip
    assert any("de   Wo ist der Bahnhof?" in text for text in texts)
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", [])
                if "image/png" in output.get("data", {})]  # fmt: skip
    assert pictures, "the confusion matrix is not shown"
