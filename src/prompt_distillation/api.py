"""The Python API: the steps of a distillation as functions, with the settings of the commands.

Every setting of a command is a keyword argument by the same name: ``create_data.py --num_votes 3``
is ``label(..., num_votes=3)``. The functions raise the same errors (`PromptDistillationError`) and
write the same files as the commands, and work in scripts and in notebooks.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_distillation import tasks
from prompt_distillation.config import split_settings

if TYPE_CHECKING:  # what these import takes longer than `import prompt_distillation` may
    from prompt_distillation.data.comparison import Comparison
    from prompt_distillation.data.improvement import Improvement
    from prompt_distillation.data.inspection import Inspection
    from prompt_distillation.data.judgement import Judgement
    from prompt_distillation.data.probes import Probes
    from prompt_distillation.data.results import Result
    from prompt_distillation.labelling.input_generation import GeneratedInputs
    from prompt_distillation.labelling.pipeline import LabelResult
    from prompt_distillation.tasks import Task
    from prompt_distillation.training.manifest import TrainResult


def load_task(folder: str | Path) -> "Task":
    """Load a task folder: ``task.yaml`` and its prompt.

    ``tasks/language`` comes with the package and is found everywhere.

    Examples:
        >>> task = load_task("tasks/language")
        >>> task.name, len(task.labels)
        ('language', 13)

    Raises:
        TaskError: the folder is not a task.
    """
    return tasks.load_task(Path(folder))


def generate_inputs(*, output_file: str | Path, **settings: Any) -> "GeneratedInputs":
    """Make inputs to label: from templates, or from a few examples of which a model makes more.

    Examples:
        >>> made = generate_inputs(
        ...     templates="tasks/beethoven/questions.yaml",
        ...     output_file="data/questions.jsonl",
        ...     num_inputs=100,
        ... )
        >>> made.coverage["creative"]
        20

    Args:
        output_file: the inputs, ``NAME.jsonl``; their manifest is written beside them.
        settings: any setting of `GenerateConfig` by its flag's name, e.g. ``examples``,
            ``num_inputs``, ``model_name``, ``engine``, ``seed``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: templates or examples that cannot be used, or too few inputs came of them.
        OutputExistsError: inputs are there already; pass ``overwrite=True`` to replace them.
        EngineError: the model cannot be loaded or stopped answering; its answers are kept.
    """
    from prompt_distillation.config.generate_config import GenerateConfig
    from prompt_distillation.labelling.input_generation import generate_inputs as run

    return run(GenerateConfig.of(output_file=output_file, **settings))


def inspect_data(
    *, input_file: str | Path | None = None, dataset: str | Path | None = None, **settings: Any
) -> "Inspection":
    """Measure what is in inputs and in a dataset, before training on it; nothing is written.

    Examples:
        >>> found = inspect_data(input_file="data/questions.jsonl")
        >>> found.parts[0].rows, found.failed
        (100, [])

    Args:
        input_file: inputs, as `label` takes them.
        dataset: chat rows, ``NAME.jsonl``; what `label` wrote beside it is inspected too.
        settings: any setting of `InspectConfig` by its flag's name, e.g. ``task``,
            ``model_name``, ``max_refused``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: a file that is missing, or is not what it should be.
        ModelError: the tokenizer cannot be loaded.
    """
    from prompt_distillation.config.inspect_config import InspectConfig
    from prompt_distillation.data.inspection import inspect

    return inspect(InspectConfig.of(input_file=input_file, dataset=dataset, **settings))


def label(*, task: "Task | str | Path", input_file: str | Path, output_file: str | Path,
          **settings: Any) -> "LabelResult":  # fmt: skip
    """Label inputs with the teacher and write a dataset to train a student on.

    A run that was stopped continues with the same call.

    Examples:
        >>> dataset = label(
        ...     task="tasks/language",
        ...     input_file="example-data/multilingual.txt",
        ...     output_file="data/lang.jsonl",
        ...     model_name="example-models/teacher",
        ...     engine="transformers",
        ...     max_tokens=256,
        ...     max_samples=60,
        ... )
        >>> dataset.counts.inputs
        60

    Args:
        task: a task, or its folder.
        input_file: txt, jsonl, csv, tsv, parquet, or a folder written by ``datasets``.
        output_file: the dataset, ``NAME.jsonl``; its other files are written beside it.
        settings: any setting of `LabelConfig` by its flag's name, e.g. ``model_name``,
            ``temperature``, ``num_votes``, ``tensor_parallel_size``, ``text_field``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError, TaskError: inputs or a task that cannot be used; nothing was paid for.
        OutputExistsError: another dataset is there; pass ``overwrite=True`` to replace it.
        EngineError: the teacher cannot be loaded or stopped answering; its answers are kept.
    """
    from prompt_distillation.config.label_config import LabelConfig
    from prompt_distillation.labelling.pipeline import label as run

    return run(
        LabelConfig.of(
            task=_folder(task), input_file=input_file, output_file=output_file, **settings
        )
    )


def train(
    dataset: "LabelResult | str | Path", *, output_dir: str | Path, **settings: Any
) -> "TrainResult":
    """Fine-tune the student on a dataset: loss on the answers only.

    A run that was stopped continues from its last checkpoint with the same call.

    Examples:
        >>> run = train(
        ...     "data/lang.jsonl",
        ...     output_dir="models/lang",
        ...     model_name="example-models/student",
        ...     max_steps=4,
        ...     report_to="none",
        ... )
        >>> run.steps
        4

    Args:
        dataset: what `label` returned, or a file of chat rows.
        output_dir: folder of the adapter, its checkpoints, curves and model card.
        settings: any setting of `TrainConfig` by its flag's name, and any other field of TRL's
            ``SFTConfig``, e.g. ``learning_rate``, ``lora_rank``, ``optim``, ``logging_steps``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: rows that cannot be trained on.
        OutputExistsError: another run is there; pass ``overwrite=True`` to replace it.
        ModelError: the student cannot be loaded.
    """
    from prompt_distillation.config.train_config import TrainConfig
    from prompt_distillation.training.run import train as run

    own, others = split_settings(TrainConfig, settings)
    file = getattr(dataset, "dataset", dataset)
    return run(TrainConfig.of(train_file=file, output_dir=output_dir, **own), others)


def evaluate(
    model: "TrainResult | str | Path",
    *,
    task: "Task | str | Path",
    test_file: str | Path,
    output_file: str | Path | None = None,
    **settings: Any,
) -> "Result":
    """Measure a model on inputs that it was not trained on.

    Examples:
        >>> result = evaluate(
        ...     "models/lang",
        ...     task="tasks/language",
        ...     test_file="example-data/multilingual.txt",
        ...     train_data_file="data/lang.jsonl",
        ...     max_samples=20,
        ...     engine="transformers",
        ... )
        >>> result.summary.total_samples
        20

    Args:
        model: what `train` returned, an adapter or a model, or ``"none"`` for ``base_model`` alone.
        task: a task, or its folder.
        test_file: inputs, as `label` takes them.
        output_file: where the result is written as JSON; None writes nothing.
        settings: any setting of `EvaluateConfig` by its flag's name, e.g. ``train_data_file`` (by
            default what the model's manifest names), ``max_samples``, ``with_prompt``,
            ``thinking``, ``engine``, ``split``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: inputs that cannot be evaluated.
        ModelError: the model cannot be loaded.
        EngineError: the engine cannot be loaded or stopped answering.
    """
    from prompt_distillation.config.evaluate_config import EvaluateConfig
    from prompt_distillation.data.files import read_json
    from prompt_distillation.data.result_files import write_result
    from prompt_distillation.data.training_files import MANIFEST_FILE
    from prompt_distillation.evaluation.evaluator import evaluate as run

    folder = str(getattr(model, "output_dir", model))
    manifest = Path(folder) / MANIFEST_FILE
    if manifest.is_file():
        settings.setdefault("train_data_file", read_json(manifest)["config"]["train_file"])
    config = EvaluateConfig.of(
        model_path=folder,
        task=_folder(task),
        test_file=test_file,
        **settings,
    )
    result = run(config)
    if output_file is not None:
        write_result(Path(output_file), result)
    return result


def compare(*, task: "Task | str | Path", test_file: str | Path, **settings: Any) -> "Comparison":
    """Measure teacher and student side by side: accuracy, tokens, latency, and cost.

    Examples:
        >>> comparison = compare(
        ...     task="tasks/language",
        ...     test_file="example-data/multilingual.txt",
        ...     train_data_file="data/lang.jsonl",
        ...     student_path="models/lang",
        ...     cells="student_before,student",
        ...     max_samples=4,
        ...     latency_samples=2,
        ...     concurrency=2,
        ...     engine="transformers",
        ... )
        >>> [cell.key for cell in comparison.cells]
        ['student_before', 'student']

    Args:
        task: a task, or its folder.
        test_file: inputs, as `label` takes them.
        settings: any setting of `CompareConfig` by its flag's name, e.g. ``teacher_model``,
            ``student_path``, ``cells``, ``price_per_hour``, ``output_dir``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError, ModelError, EngineError: as for `evaluate`.
    """
    from prompt_distillation.config.compare_config import CompareConfig
    from prompt_distillation.evaluation.comparer import compare as run

    return run(CompareConfig.of(task=_folder(task), test_file=test_file, **settings))


def judge(*, student_file: str | Path, teacher_file: str | Path, **settings: Any) -> "Judgement":
    """Let a model compare the answers of student and teacher, each pair in both orders.

    A run that was stopped continues with the same call.

    Examples:
        >>> judgement = judge(
        ...     student_file="student.json",
        ...     teacher_file="teacher.json",
        ...     model_name="Qwen/Qwen3-30B-A3B-Instruct-2507",
        ... )  # doctest: +SKIP
        >>> judgement.overall.win_rate  # doctest: +SKIP

    Args:
        student_file: the student's answers, a result that `evaluate` or `compare` wrote.
        teacher_file: the teacher's answers to the same inputs.
        settings: any setting of `JudgeConfig` by its flag's name, e.g. ``model_name`` (of the
            judge), ``task`` or ``rubric_file``, ``human_verdicts_file``, ``output_dir``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: results, a rubric or verdicts that cannot be used.
        OutputExistsError: there is a judgement; pass ``overwrite=True`` to replace it.
        ModelError, EngineError: as for `evaluate`; what the judge said is kept.
        NoLabelsError: the judge gave no verdict that can be read.
    """
    from prompt_distillation.config.judge_config import JudgeConfig
    from prompt_distillation.judging import judge as run

    return run(JudgeConfig.of(student_file=student_file, teacher_file=teacher_file, **settings))


def probe(*, task: "Task | str | Path", test_file: str | Path, **settings: Any) -> "Probes":
    """Measure what automatic scores of texts miss: character, pressure, perplexity, forgetting.

    Examples:
        >>> probes = probe(
        ...     task="tasks/language",
        ...     test_file="example-data/multilingual.txt",
        ...     train_data_file="data/lang.jsonl",
        ...     student_path="models/lang",
        ...     probes="forgetting",
        ...     max_samples=4,
        ...     engine="transformers",
        ...     output_file="data/probes.json",
        ... )
        >>> probes.forgetting.divergence.prompts
        24

    Args:
        task: a task, or its folder.
        test_file: inputs, as `label` takes them.
        settings: any setting of `ProbeConfig` by its flag's name, e.g. ``teacher_model``,
            ``student_path``, ``probes``, ``plain_text_file``, ``output_file``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: inputs that cannot be used, or too few answers to learn from.
        OutputExistsError: there is a result; pass ``overwrite=True`` to replace it.
        ModelError, EngineError: as for `evaluate`.
    """
    from prompt_distillation.config.probe_config import ProbeConfig
    from prompt_distillation.evaluation.prober import probe as run

    return run(ProbeConfig.of(task=_folder(task), test_file=test_file, **settings))


def improve(
    student: "TrainResult | str | Path", *, output_dir: str | Path, **settings: Any
) -> "Improvement":
    """Improve a student in rounds: label what it is unsure of, train on, measure.

    A run that was stopped, or that should go on for more rounds, continues with the same call.

    Examples:
        >>> made = improve(
        ...     "models/lang",
        ...     output_dir="models/improve",
        ...     pool="example-data/multilingual.txt",
        ...     inputs_per_round=4,
        ...     max_rounds=1,
        ...     engine="transformers",
        ... )
        >>> made.rounds[1].asked
        4

    Args:
        student: what `train` returned, or its folder; the manifest names the dataset.
        output_dir: folder for the rounds and ``improve.json``.
        settings: any setting of `ImproveConfig` by its flag's name, e.g. ``pool``, ``select``,
            ``inputs_per_round``, ``max_teacher_tokens``, ``write_inputs``.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
        InputError: no manifest, no held-out inputs, or a pool that cannot be read.
        OutputExistsError: the folder holds rounds of other settings, or someone else's files.
        ModelError, EngineError: as for `label`, `train` and `evaluate`.
    """
    from prompt_distillation.config.improve_config import ImproveConfig
    from prompt_distillation.improving import improve as run

    folder = getattr(student, "output_dir", student)
    return run(ImproveConfig.of(student_path=folder, output_dir=output_dir, **settings))


def _folder(task: "Task | str | Path") -> Path:
    return task.path if isinstance(task, tasks.Task) else Path(task)
