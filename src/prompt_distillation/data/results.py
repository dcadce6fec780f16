"""What an evaluation measured, as one tree of frozen records: the layout of the result file.

The first keys are those that people's scripts already read (`summary`, `predictions`,
`confusion_matrix`, `per_language_accuracy`, `worst_performing_languages`); the rest says how sure
the figures are, what they are measured against, and how to get them again. Shares are in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prompt_distillation.data.intervals import Estimate, Interval
from prompt_distillation.tasks import ChatMessage, MetricFamily

UNPARSEABLE = "?"
"""Column of the confusion matrix for completions that hold no answer."""

SCHEMA_VERSION = 1

TruthKind = Literal["gold", "teacher"]

GateStatus = Literal["passed", "failed", "undecided"]

SIGNIFICANT = 0.05
"""A p value below this is called significant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Inputs whose confidence lies in ``[low, high)``.

    Attributes:
        confidence: their mean.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How well confidence predicts accuracy."""

    n: int
    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CoveragePoint:
    """Accuracy over the share ``coverage`` of inputs whose confidence is at least ``threshold``."""

    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadePoint:
    """The cascade at one threshold; None: the teacher answers everything."""

    threshold: float | None
    student_share: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeCheck:
    """The cascade on inputs that were not used to choose its threshold.

    Attributes:
        only_cascade_right: inputs on which the teacher alone is wrong.
    """

    n: int
    student_share: float
    accuracy: float
    interval: Interval | None
    only_cascade_right: int
    only_teacher_right: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """The student answers first, and the teacher where the student is less sure than ``threshold``.

    Attributes:
        threshold: None if none reaches the teacher's accuracy; then the teacher answers all.
        student_share: share of inputs that the student answers; 1: nothing falls back.
        check: None if all inputs are in one group.
        curve: every threshold that makes a difference, the highest first.
    """

    n: int
    threshold: float | None
    student_share: float
    accuracy: float
    teacher_accuracy: float
    check: CascadeCheck | None
    curve: tuple[CascadePoint, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """What the probabilities of the labels show."""

    calibration: Calibration
    coverage: tuple[CoveragePoint, ...]
    cascade: Cascade | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One input and the model's answer.

    Attributes:
        index: position among the test file's rows, from 0.
        predicted: the label or text; None where the completion holds no answer.
        ground_truth: what ``correct`` was judged by: gold or the teacher, as `Result.truth` says.
        correct: None where there is no ground truth, and for generated text.
        teacher: the teacher's answer; None where it gave none.
        teacher_asked: whether the teacher was asked this input at all.
        trained_on: whether the model was trained on this text; None where that is not known.
        reject_reason: why there is no answer.
        raw_output: the completion, reasoning included.
        seconds: from submission to the last token, queueing included.
        label_probabilities: label -> share of the model's belief, where labels were scored.
        mean_logprob: of the tokens of the answer, in nats, where they were asked for.
        history: the turns before ``text``, for a conversation.
    """

    index: int
    text: str
    group: str
    predicted: str | None
    ground_truth: str | None
    correct: bool | None
    gold: str | None = None
    teacher: str | None = None
    teacher_asked: bool = False
    trained_on: bool | None = None
    reject_reason: str | None = None
    raw_output: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    seconds: float | None = None
    first_token_seconds: float | None = None
    label_probabilities: Mapping[str, float] | None = None
    mean_logprob: float | None = None
    history: tuple[ChatMessage, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The main figures.

    Attributes:
        total_samples: inputs given to the model.
        predicted: completions that hold an answer.
        evaluated: inputs with a ground truth; ``accuracy`` is ``correct / evaluated``.
        left_out: inputs without a ground truth: neither right nor wrong.
        macro_f1: mean F1 over the labels that occur in the ground truth.
        accuracy_interval: Wilson, 95 %.
    """

    total_samples: int
    predicted: int
    unparseable: int
    parse_rate: float
    accuracy: float | None
    correct: int
    evaluated: int
    left_out: int
    accuracy_interval: Interval | None
    macro_f1: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionMatrix:
    """Counts; rows are the truth, columns the prediction, `UNPARSEABLE` the last of both.

    Attributes:
        labels: names of rows and columns.
        matrix_2d: ``len(labels)`` rows of ``len(labels)`` counts.
        matrix_dict: truth -> prediction -> count.
    """

    labels: tuple[str, ...]
    matrix_2d: tuple[tuple[int, ...], ...]
    matrix_dict: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorExample:
    """One wrong answer."""

    index: int
    text: str
    predicted: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelAccuracy:
    """The results for one label; ``total`` inputs have it as their truth."""

    accuracy: float
    correct: int
    total: int
    interval: Interval
    precision: float
    recall: float
    f1: float
    error_examples: tuple[ErrorExample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstLabel:
    """A label with one of the lowest accuracies."""

    language: str
    accuracy: float
    correct: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Answers against one truth.

    Attributes:
        n: inputs where that truth is known.
        left_out: inputs where it is not: neither right nor wrong.
        macro_f1: mean F1 over the labels that occur in that truth.
    """

    n: int
    correct: int
    accuracy: float | None
    interval: Interval | None
    macro_f1: float | None
    left_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """McNemar's exact test: is one right where the other is wrong more often than by chance?

    Attributes:
        only_first_right: positions among the predictions where only the first answer is right.
        p_value: two-sided.
    """

    n: int
    both_right: int
    both_wrong: int
    only_first_right: tuple[int, ...]
    only_second_right: tuple[int, ...]
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Whether the difference is larger than chance makes likely."""
        return self.p_value < SIGNIFICANT


@dataclass(frozen=True, kw_only=True, slots=True)
class Truths:
    """The three comparisons, never mixed; "student" is the model under evaluation."""

    student_gold: Agreement
    teacher_gold: Agreement | None
    student_teacher: Agreement | None
    student_against_teacher: PairedTest | None

    @property
    def named(self) -> tuple[tuple[str, Agreement | None], ...]:
        """What agrees with what, in words, and how well."""
        return (
            ("this model with the gold labels", self.student_gold),
            ("the teacher with the gold labels", self.teacher_gold),
            ("this model with the teacher", self.student_teacher),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """How much of the test was trained on.

    Attributes:
        checked: whether the training inputs were available.
        training_rows: how many there are.
        texts: evaluated inputs whose text, normalised, was trained on.
        groups: evaluated inputs of whose group some text was trained on.
    """

    checked: bool
    training_rows: int
    texts: int
    groups: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens and time.

    Attributes:
        run_seconds: wall time of all queries, batched, without start-up.
        startup_seconds: until the engine could take the first query.
        seconds_per_query: ``run_seconds / total``: what a query costs in a full batch.
        latency_seconds_mean: from a query's submission to its last token, queueing included.
    """

    engine: str
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_per_query: float
    completion_tokens_per_query: float
    cached_tokens: int | None
    run_seconds: float
    startup_seconds: float
    seconds_per_query: float
    queries_per_second: float
    latency_seconds_mean: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaks:
    """Answers that quote what their reader should not see.

    Attributes:
        words: a quotation has at least so many words in a row.
        prompt: share of the answers that quote the prompt.
        reasoning: share of the answers that hold a mark of reasoning, or quote the teacher's
            reasoning about the same input where the teacher's own answer does not.
        reasoning_known: inputs for which the teacher's reasoning is known.
        longest_of_prompt: the longest run of words that an answer shares with the prompt.
        longest_of_reasoning: the same with the reasoning.
        indices: `Prediction.index` of the answers that quote either.
    """

    words: int
    prompt: Estimate
    reasoning: Estimate
    reasoning_known: int
    longest_of_prompt: str
    longest_of_reasoning: str
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScores:
    """What can be counted of generated texts. A missing answer counts as an empty text.

    Attributes:
        reference: what the texts are compared with.
        n: inputs that have such a text; the scores of a comparison are over these.
        total: inputs; all other figures are over these.
        bleu: of the corpus, by sacrebleu, from 0 to 1.
        chrf: of the corpus, by sacrebleu, from 0 to 1.
        rouge_l: mean F1 by rouge-score; None where references are not in Latin script.
        similarity: mean cosine of the sentence embeddings; a missing answer counts as 0.
        similarity_model: whose embeddings.
        length_ratio: tokens of all answers over tokens of all references, as sacrebleu counts them.
        distinct_1: different words over words, of all answers together.
        distinct_2: different pairs of neighbouring words over pairs.
        cut: share of the inputs whose answer was cut off by its length.
        empty: share of the inputs whose answer is empty.
    """

    reference: TruthKind
    n: int
    total: int
    bleu: Estimate | None
    chrf: Estimate | None
    rouge_l: Estimate | None
    length_ratio: Estimate | None
    distinct_1: Estimate | None
    distinct_2: Estimate | None
    cut: Estimate
    empty: Estimate
    leaks: Leaks
    similarity: Estimate | None = None
    similarity_model: str | None = None

    @property
    def compared(self) -> list[tuple[str, Estimate]]:
        """Each similarity to the reference that is known, with the name that people know it by."""
        scores = (
            ("BLEU", self.bleu), ("chrF", self.chrf), ("ROUGE-L", self.rouge_l),
            ("similarity", self.similarity),
        )  # fmt: skip
        return [(name, score) for name, score in scores if score is not None]

    @property
    def named(self) -> list[tuple[str, Estimate]]:
        """Every figure that is known, by name."""
        others = (
            ("length ratio", self.length_ratio), ("distinct-1", self.distinct_1),
            ("distinct-2", self.distinct_2), ("cut off", self.cut), ("empty", self.empty),
            ("quotes the prompt", self.leaks.prompt),
            ("quotes the reasoning", self.leaks.reasoning),
        )  # fmt: skip
        return self.compared + [(name, score) for name, score in others if score is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldResult:
    """How one field of JSON answers fares.

    Attributes:
        correct: values that are as in the truth.
        given: values that the answers have; ``correct / given`` is the precision.
        wanted: values that the truths have; ``correct / wanted`` is the recall.
        invented: values that the answers have where the truth has none.
        error_examples: ``predicted`` says ``truth -> answer``.
    """

    precision: float
    recall: float
    f1: float
    correct: int
    given: int
    wanted: int
    invented: int
    error_examples: tuple[ErrorExample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldScores:
    """How right JSON answers are, value by value; whether whole objects are is the accuracy.

    Attributes:
        n: inputs with a truth.
        invented: share of the given values where the truth has none.
        fields: path, such as ``$.items[].name`` -> its result, worst first.
        f1_interval: 95 %, by the bootstrap over inputs; None below two.
    """

    n: int
    precision: float
    recall: float
    f1: float
    invented: float
    fields: Mapping[str, FieldResult]
    f1_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """Whether the model may be deployed, with a reason for each rule."""

    status: GateStatus
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One evaluation.

    Attributes:
        base_model: what was loaded; ``adapter`` is what was put on top.
        truth: what ``ground_truth`` is.
        reject_reasons: reason -> completions without an answer.
        metrics: which of them apply to the task's answers; None in files of before it.
        config: the command's resolved options.
        inputs: file -> SHA-256, of what was read.
    """

    model_path: str
    base_model: str
    test_file: str
    train_data_file: str
    timestamp: str
    summary: Summary
    confusion_matrix: ConfusionMatrix | None
    per_language_accuracy: Mapping[str, LabelAccuracy]
    worst_performing_languages: tuple[WorstLabel, ...]
    truths: Truths | None
    confidence: Confidence | None
    gate: GateVerdict | None
    overlap: Overlap
    usage: Usage | None
    reject_reasons: Mapping[str, int]
    schema_version: int
    task: str
    prompt_sha256: str
    split: str
    truth: TruthKind
    adapter: str | None
    with_prompt: bool
    thinking: bool
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    provenance: Mapping[str, Any]
    predictions: tuple[Prediction, ...]

    def __repr__(self) -> str:
        summary = self.summary
        parts = [f"model={self.model_path!r}", f"task={self.task!r}", f"split={self.split!r}"]
        parts.append(f"parse_rate={summary.parse_rate:.4f} of {summary.total_samples}")
        interval = summary.accuracy_interval
        if summary.accuracy is not None and interval is not None:
            parts.append(
                f"accuracy={summary.accuracy:.4f} ({interval.low:.4f} to {interval.high:.4f}) of "
                f"{summary.evaluated}, against {self.truth} answers"
            )
        return f"Result({', '.join(parts)})"

    field_scores: FieldScores | None = None
    metrics: MetricFamily | None = None
    text_scores: TextScores | None = None
