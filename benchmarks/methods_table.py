"""The table and the figure of `benchmarks/methods.py`, from the runs that it kept.

    python benchmarks/methods_table.py

A difference is paired: by seed and, for scores, by input. Its 95 % interval is that of a bootstrap
over seeds and inputs, each drawn again independently. The tables go to the terminal and the figure
to ``--figure``; ``--summary`` gets the means over the inputs, run by run, as JSON.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from methods import CONDITIONS, FOLDER, METHODS, PLANS, START

from prompt_distillation.data.files import read_json, write_json

RESAMPLES = 4000
ROWS = (*METHODS[:-1], START, METHODS[-1])
TITLES = {"language": "labels", "card": "JSON", "persona": "texts"}
SCORES = {"language": "accuracy", "card": "F1 of values", "persona": "chrF"}
NAMES = {"held out": "held out", "shifted": "out of distribution"}
SHIFTED = {"language": "noisy inputs", "card": "two calls in one", "persona": "radio calls"}

Runs = Mapping[str, Any]
Array = "np.ndarray[Any, Any]"


def main() -> None:
    """Print the tables, write the figure and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--figure", type=Path, default=Path("docs/assets/methods.png"))
    parser.add_argument("--summary", type=Path, default=Path("docs/assets/methods.json"))
    arguments = parser.parse_args()
    files = [arguments.folder / f"{task}.json" for task in PLANS]
    found = [read_json(file) for file in files if file.exists()]
    if not found:
        raise SystemExit(f"{arguments.folder} holds no runs; benchmarks/methods.py makes them")
    panels = []
    for done in found:
        for condition in done["settings"]["conditions"]:
            seeds = whole_seeds(done["runs"], condition)
            if seeds:
                print("\n".join(table(done, condition, seeds)))
                panels.append((done, condition, seeds))
    draw(panels, arguments.figure)
    write_json(arguments.summary, {"tasks": [without_scores(done) for done in found]})


def whole_seeds(runs: Runs, condition: str) -> list[int]:
    """The seeds with which every method was run."""
    names = [name.split(" / ") for name in runs]
    seeds = sorted({int(seed) for of, _, seed in names if of == condition})
    return [s for s in seeds if all(f"{condition} / {m} / {s}" in runs for m in METHODS)]


def values(runs: Runs, condition: str, method: str, seeds: Sequence[int], field: str) -> Any:
    """Seeds x inputs for a score, seeds x 1 for a figure of a run; None where it has none."""
    mine = [runs[f"{condition} / {method} / {seed}"] for seed in seeds]
    if field in mine[0]["scores"]:
        return np.array([run["scores"][field] for run in mine])
    return np.array([[run[field]] for run in mine]) if field in mine[0] else None


def difference(ours: Any, base: Any) -> tuple[float, float, float]:
    """Mean paired difference, and its 95 % interval by the bootstrap over seeds and inputs."""
    paired, draw = ours - base, np.random.default_rng(0)
    seeds, inputs = paired.shape
    means = [
        paired[draw.integers(seeds, size=seeds)][:, draw.integers(inputs, size=inputs)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(paired.mean()), float(low), float(high)


def table(done: Mapping[str, Any], condition: str, seeds: Sequence[int]) -> list[str]:
    """The lines of one task under one condition, as Markdown."""
    runs, made, task = done["runs"], done["datasets"][condition], done["task"]
    held_out = values(runs, condition, "sft", seeds, "held out")
    tokens = "; ".join(
        f"{kind}: {one['rows']} rows, {one['teacher_tokens']:,} tokens"
        + (f", {100 * one['as_gold']:.1f} % as gold" if one["as_gold"] is not None else "")
        for kind, one in made.items()
    )
    columns = {
        "held out": SCORES[task], "shifted": SHIFTED[task],
        "calibration_error": "calibration error",
    }  # fmt: skip
    columns = {
        field: name
        for field, name in columns.items()
        if values(runs, condition, "sft", seeds, field) is not None
    }
    heads = [part for name in columns.values() for part in (name, "against sft")]
    heads = ["method", *heads, "plain text", "CPU s"]
    lines = [
        f"\n### {TITLES[task][0].upper()}{TITLES[task][1:]}, {condition}\n",
        f"{len(seeds)} seeds, {held_out.shape[1]} inputs ({tokens}). "
        f"Perplexity of plain text before: {done['perplexity_before']:,.0f}.\n",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for method in ROWS:
        cells = [method]
        for field in columns:
            cells += compared(runs, condition, method, seeds, field)
        perplexity = values(runs, condition, method, seeds, "perplexity")
        seconds = values(runs, condition, method, seeds, "cpu_seconds")
        # Perplexities multiply: their mean is that of their logarithms.
        cells += [f"{np.exp(np.log(perplexity).mean()):,.0f}", f"{seconds.mean():.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    brought = "; ".join(
        f"{name} {compared(runs, condition, METHODS[-1], seeds, field, base=START)[1]}"
        for field, name in columns.items()
    )
    return [*lines, f"\n`{METHODS[-1]}` against the run that it continues: {brought}."]


def compared(
    runs: Runs, condition: str, method: str, seeds: Sequence[int], field: str, *, base: str = "sft"
) -> tuple[str, str]:
    """A mean and its difference from a base: scores in percent and points, errors as they are."""
    ours, theirs = (values(runs, condition, one, seeds, field) for one in (method, base))
    scale, digits, unit = (1, 3, "") if field == "calibration_error" else (100, 1, " %")
    mean = f"{scale * ours.mean():.{digits}f}{unit}"
    if method == base:
        return mean, "-"
    apart, low, high = (f"{scale * value:+.{digits}f}" for value in difference(ours, theirs))
    return mean, f"{apart} ({low} to {high})"


def draw(panels: Sequence[tuple[Mapping[str, Any], str, Sequence[int]]], path: Path) -> None:
    """A panel for each task and condition: what each method gains over `sft`, in points."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(done["task"] for done, _, _ in panels))
    figure, axes = pyplot.subplots(
        len(tasks), len(CONDITIONS), figsize=(9.5, 2.3 * len(tasks)), sharey=True, squeeze=False,
        layout="constrained", dpi=120,
    )  # fmt: skip
    places = range(len(ROWS) - 1, 0, -1)
    for done, condition, seeds in panels:
        task = done["task"]
        axis = axes[tasks.index(task)][list(CONDITIONS).index(condition)]
        for field, colour, shift in (("held out", "C0", 0.14), ("shifted", "C1", -0.14)):
            base = values(done["runs"], condition, "sft", seeds, field)
            for place, method in zip(places, ROWS[1:], strict=True):
                ours = values(done["runs"], condition, method, seeds, field)
                mean, low, high = (100 * value for value in difference(ours, base))
                axis.errorbar(
                    mean, place + shift, xerr=[[mean - low], [high - mean]], fmt="o", ms=4,
                    color=colour, capsize=2, label=NAMES[field] if place == 1 else None,
                )  # fmt: skip
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set_title(f"{TITLES[task]}, {condition}", fontsize=9)
        axis.set_xlabel(f"{SCORES[task]}, points over sft", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_yticks(list(places), ROWS[1:])
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def without_scores(done: Mapping[str, Any]) -> dict[str, Any]:
    """The means of each run, without the scores of single inputs."""
    runs = {
        name: {key: value for key, value in run.items() if key != "scores"}
        for name, run in done["runs"].items()
    }
    return {**done, "runs": runs}


if __name__ == "__main__":
    main()
