"""A judgement as a table and sentences: the same on the screen and on the page."""

from collections.abc import Iterator

from prompt_distillation.data.intervals import percent
from prompt_distillation.data.judgement import OVERALL, JudgedPair, Judgement, Share
from prompt_distillation.report.sentences import with_bounds

HEADS = (
    "dimension", "student wins", "ties", "teacher wins", "inconsistent",
    "win rate (95 % interval)", "at equal length (95 % interval)", "first place chosen",
    "longer answer chosen",
)  # fmt: skip

SHOWN_EXAMPLES = 5


def judge_rows(judgement: Judgement) -> list[tuple[str, ...]]:
    """A row of `HEADS` for each dimension, the verdict overall last."""
    return [
        (
            one.name,
            str(one.student),
            str(one.ties),
            str(one.teacher),
            str(one.inconsistent),
            with_bounds(one.win_rate.value, one.win_rate.interval),
            with_bounds(one.length_controlled.value, one.length_controlled.interval),
            percent(one.first_place.value),
            percent(one.longer.value),
        )
        for one in judgement.verdicts
    ]


def judge_sentences(judgement: Judgement) -> Iterator[str]:
    """What was judged, what was not, how biased the judge is, and whether a person agrees."""
    overall, (ours, theirs) = judgement.overall, judgement.characters
    asked = len(judgement.pairs) - judgement.identical
    yield (
        f"{judgement.judge} compared {asked} pairs of answers, "
        f"each in both orders; {judgement.identical} more are identical and count as ties. "
        f"{overall.inconsistent} verdicts changed with the order and count for nobody."
    )
    yield _bias("the answer in the first place", overall.first_place)
    yield (
        f"{_bias('the longer answer', overall.longer)} The student's answers have {ours:,.0f} "
        f"characters on average, the teacher's {theirs:,.0f}."
    )
    left_out = (
        (judgement.without_answer, "inputs without an answer of both"),
        (judgement.too_long, "inputs with answers too long to ask about"),
        (judgement.without_verdict, "pairs without a verdict that can be read"),
    )
    if any(count for count, _ in left_out):
        counted = ", ".join(f"{count} {what}" for count, what in left_out if count)
        yield f"Not counted: {counted}."
    if (person := judgement.person) is not None:
        alpha = "undefined" if person.alpha is None else f"{person.alpha:.3f}"
        share = with_bounds(person.agreement.value, person.agreement.interval)
        yield (
            f"A person agrees with the judge on {share} of {person.agreement.n} pairs; "
            f"Krippendorff's alpha is {alpha}. {person.without_verdict} of the person's verdicts "
            "are on inputs without a consistent verdict of the judge."
        )


def _bias(what: str, share: Share) -> str:
    if share.value is None or share.interval is None:
        return f"Whether the judge prefers {what} is unknown: no verdict tells."
    shown = f"{with_bounds(share.value, share.interval)} of {share.n} verdicts"
    if share.interval.low <= 0.5 <= share.interval.high:
        return f"It chose {what} in {shown}: no bias is seen."
    more = "more" if share.value > 0.5 else "less"
    return f"It chose {what} in {shown}: {more} often than the half expected by chance."


def judge_examples(judgement: Judgement) -> dict[str, list[JudgedPair]]:
    """A few pairs that the teacher wins, that the student wins, and that the order decided."""
    found: dict[str, list[JudgedPair]] = {
        "the teacher wins": [], "the student wins": [], "the order decided": [],
    }  # fmt: skip
    for pair in judgement.pairs:
        winner = pair.winner(OVERALL)
        if pair.is_judged and winner != "tie":
            found["the order decided" if winner is None else f"the {winner} wins"].append(pair)
    return {name: pairs[:SHOWN_EXAMPLES] for name, pairs in found.items() if pairs}


def judge_markdown(judgement: Judgement) -> str:
    """Table and sentences, for the terminal."""
    rows = [HEADS, ("---",) * len(HEADS), *judge_rows(judgement)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*table, "", *judge_sentences(judgement)])
