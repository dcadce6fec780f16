"""The end of an evaluation on the screen: the headline, what it is measured against, its price."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from prompt_distillation.data.results import (
    SIGNIFICANT,
    Agreement,
    Overlap,
    PairedTest,
    Result,
    Usage,
)
from prompt_distillation.report.confidence_text import confidence_lines
from prompt_distillation.report.terminal import SHORT_RULE, percent, print_lines, with_interval

MOSTLY_READABLE = 0.5
"""Share of readable answers from which the model can be said to answer at all."""


def print_summary(console: Console, result: Result, *, output_file: Path) -> None:
    """Print the summary, the three truths, the overlap with the training, and the usage."""
    lines = ["", SHORT_RULE, "EVALUATION SUMMARY", SHORT_RULE, *_model_lines(result), ""]
    lines += _performance_lines(result)
    lines += ["", *_truth_lines(result)] if result.truths else []
    lines += ["", *_overlap_lines(result.overlap, split=result.split)]
    if result.confidence:
        lines += ["", "Confidence:"]
        lines += [f"  {line}" for line in confidence_lines(result.confidence)]
    lines += ["", *_usage_lines(result.usage)] if result.usage else []
    if not result.with_prompt and result.usage and result.summary.parse_rate >= MOSTLY_READABLE:
        lines += ["", f"💡 The model responds directly without the prompt of {result.task!r}!"]
    lines += ["", f"📁 Complete results saved to: {output_file}"]
    lines += ["   Includes: predictions, confusion matrix, per-language stats, error examples"]
    print_lines(console, lines)


def _model_lines(result: Result) -> list[str]:
    lines = [f"{'Model' if result.usage else 'Predictions'}: {result.base_model}"]
    if result.adapter:
        lines.append(f"Adapter: {result.adapter}")
    if result.with_prompt or result.thinking:
        prompt = "with the task's prompt" if result.with_prompt else "without the prompt"
        lines.append(f"Asked: {prompt}, {'thinking' if result.thinking else 'not thinking'}")
    return lines


def _performance_lines(result: Result) -> Iterator[str]:
    summary = result.summary
    yield "Performance:"
    yield f"  Total samples: {summary.total_samples}"
    yield f"  Successfully predicted: {summary.predicted}"
    yield f"  Unparseable responses: {summary.unparseable}"
    for reason, count in result.reject_reasons.items():
        yield f"    {reason}: {count}"
    yield f"  Parse rate: {summary.parse_rate:.2%}"
    yield ""
    if result.text_overlap:
        overlap = result.text_overlap
        yield f"  Against {overlap.reference} texts (n={overlap.n}; free text has no accuracy):"
        yield f"  Token F1: {overlap.token_f1:.3f}"
        yield f"  ROUGE-L:  {overlap.rouge_l:.3f}"
        yield f"  chrF:     {overlap.chrf:.3f}"
    elif summary.accuracy is None or summary.accuracy_interval is None:
        yield f"  Overall Accuracy: - (none of the inputs has a {result.truth} answer)"
    else:
        interval = summary.accuracy_interval
        yield f"  Overall Accuracy: {summary.accuracy:.2%}"
        yield f"  Correct: {summary.correct}/{summary.evaluated}"
        yield f"  95% interval: {interval.low:.2%} - {interval.high:.2%} (Wilson)"
        yield f"  Macro-F1: {percent(summary.macro_f1, digits=2)}"
    if summary.left_out and (summary.evaluated or result.text_overlap):
        yield f"  Left out, no {result.truth} answer known: {summary.left_out}"


def _truth_lines(result: Result) -> Iterator[str]:
    truths = result.truths
    if truths is None:
        return
    yield "Against each truth:"
    yield _agreement_line("this model - gold", truths.student_gold)
    yield _agreement_line("teacher - gold", truths.teacher_gold)
    yield _agreement_line("this model - teacher", truths.student_teacher)
    if truths.student_against_teacher:
        yield f"  {paired_text(truths.student_against_teacher)}"


def _agreement_line(name: str, agreement: Agreement | None) -> str:
    if agreement is None or not agreement.n:
        return f"  {name + ':':<22}not known for any of these inputs"
    left_out = f", {agreement.left_out} left out" if agreement.left_out else ""
    share = with_interval(agreement.accuracy, agreement.interval)
    return f"  {name + ':':<22}{share}, n={agreement.n}{left_out}"


def paired_text(test: PairedTest, *, first: str = "this model") -> str:
    """McNemar's test of a model, called ``first``, against the teacher, in one line."""
    mine, theirs = len(test.only_first_right), len(test.only_second_right)
    verdict = (
        "they differ" if test.p_value < SIGNIFICANT else "no difference that chance does not make"
    )
    return (
        f"Only {first} right: {mine}, only the teacher right: {theirs} "
        f"(McNemar exact p={test.p_value:.3g}: {verdict})"
    )


def _overlap_lines(overlap: Overlap, *, split: str) -> Iterator[str]:
    if not overlap.checked:
        yield (
            "⚠️  Overlap with the training inputs cannot be checked: --train_data_file is not there."
        )
        return
    if not overlap.texts and not overlap.groups:
        yield (
            f"None of these {overlap.total} inputs, nor any of their groups, is among the "
            f"{overlap.training_rows} training rows (split {split})."
        )
        return
    texts, groups = overlap.texts / overlap.total, overlap.groups / overlap.total
    yield "⚠️  TRAINED ON WHAT IS TESTED: the accuracy above says little about new inputs."
    yield f"    {overlap.texts} of {overlap.total} inputs ({texts:.1%}) are training texts;"
    yield f"    {overlap.groups} ({groups:.1%}) share a group with one."


def _usage_lines(usage: Usage) -> Iterator[str]:
    cached = f" ({usage.cached_tokens} from the cache)" if usage.cached_tokens else ""
    yield f"Usage (engine {usage.engine}, batched):"
    yield f"  Tokens per query: {usage.prompt_tokens_per_query:.1f} in{cached}, " + (
        f"{usage.completion_tokens_per_query:.1f} out"
    )
    yield f"  Seconds per query: {usage.seconds_per_query:.4f}" + (
        f" (mean latency {usage.latency_seconds_mean:.3f} s)"
        if usage.latency_seconds_mean is not None
        else ""
    )
    yield (
        f"  Throughput: {usage.queries_per_second:.1f} queries/s "
        f"({usage.run_seconds:.1f} s, after {usage.startup_seconds:.1f} s of start-up)"
    )
