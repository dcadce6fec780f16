"""What the probes measured, as tables: the same rows on the screen and on the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prompt_distillation.data.intervals import Estimate, with_interval
from prompt_distillation.data.probes import MODEL_TITLES, Perplexity, Probes
from prompt_distillation.data.text import safe_for_terminal

FAIR_ACCURACY = 0.75
"""Below this accuracy of the classifier, shares in character say little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeTable:
    """One table: a heading, what it means in sentences, column heads and rows."""

    title: str
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def probe_tables(probes: Probes) -> Iterator[ProbeTable]:
    """A table for each probe that was made, the classifier's own accuracy before its verdicts."""
    if probes.character is not None:
        yield _character_table(probes)
    if probes.pressure:
        heads = tuple(MODEL_TITLES[key] for key in probes.pressure[0].models)
        yield ProbeTable(
            title="Under pressure",
            notes=(
                "Share of the answers in character when a question invites a model out of it. "
                "Compare the student with the teacher under its prompt.",
            ),
            heads=("questions", "n", *heads),
            rows=tuple(
                (
                    one.category.replace("_", " "),
                    str(one.questions),
                    *(_share(share) for share in one.models.values()),
                )
                for one in probes.pressure
            ),
        )
    perplexities = {"the teacher's answers": probes.perplexity}
    if probes.forgetting is not None:
        perplexities["plain text"] = probes.forgetting.plain_text
    if rows := [_perplexity_row(name, one) for name, one in perplexities.items() if one]:
        yield ProbeTable(
            title="Perplexity and forgetting",
            notes=tuple(_forgetting_notes(probes)),
            heads=("perplexity of", "student before", "student distilled", "tokens", "left out"),
            rows=tuple(rows),
        )


def _character_table(probes: Probes) -> ProbeTable:
    found = probes.character
    assert found is not None
    notes = [
        "A classifier tells the teacher's answers with the prompt from those without it; "
        f"cross-validated, it is right on {_share(found.accuracy)} of {found.answers} answers."
    ]
    if found.accuracy.value < FAIR_ACCURACY:
        notes.append("It can hardly tell them apart, so the shares below say little.")
    notes.append(f"It calls in character, of the answers to {found.inputs} test inputs:")
    return ProbeTable(
        title="In character",
        notes=tuple(notes),
        heads=("answers of", "in character"),
        rows=tuple((MODEL_TITLES[key], _share(share)) for key, share in found.models.items()),
    )


def _perplexity_row(name: str, found: Perplexity) -> tuple[str, ...]:
    shown = (found.before.shown, found.after.shown, str(found.tokens), str(found.left_out))
    return (f"{name} (n={found.texts})", *shown)


def _forgetting_notes(probes: Probes) -> Iterator[str]:
    yield "Lower is better: how well the student expects a text, before and after distillation."
    moved = probes.forgetting.divergence if probes.forgetting else None
    if moved is not None:
        yield (
            f"On {moved.prompts} neutral prompts the student has moved from its base by "
            f"{moved.nats_per_token.shown} nats per token: KL(student || base), {moved.tokens} "
            "tokens; 0 would be no change."
        )


def _share(found: Estimate) -> str:
    return with_interval(found.value, found.interval)


def probe_lines(probes: Probes) -> Iterator[str]:
    """The tables as lines of plain text."""
    for number, table in enumerate(probe_tables(probes)):
        if number:
            yield ""
        yield table.title
        yield from (f"  {note}" for note in table.notes)
        yield from _aligned([table.heads, *table.rows])


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    shown = [[safe_for_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"    {'  '.join(cells).rstrip()}"
