from dataclasses import replace

from prompt_distillation.data.intervals import share_of
from prompt_distillation.report.page import PageParts, build_page
from prompt_distillation.report.probe_table import probe_lines

HOSTILE = "</td><script>alert(1)</script>"


def test_the_classifiers_own_accuracy_comes_before_its_verdicts(make_probes) -> None:
    lines = list(probe_lines(make_probes()))

    right = next(i for i, line in enumerate(lines) if "it is right on 95.0%" in line)
    assert right < next(i for i, line in enumerate(lines) if "student distilled" in line)
    shown = "\n".join(lines)
    assert "drop the act" in shown
    assert "KL(student || base)" in shown
    assert "can hardly tell" not in shown


def test_a_classifier_that_guesses_is_not_trusted(make_probes) -> None:
    probes = make_probes()
    character = replace(probes.character, accuracy=share_of(11, 20))

    assert "can hardly tell" in "\n".join(probe_lines(replace(probes, character=character)))


def test_what_was_not_measured_has_no_table(make_probes) -> None:
    only = replace(make_probes(), character=None, pressure=(), forgetting=None)

    shown = "\n".join(probe_lines(only))

    assert "In character" not in shown
    assert "the teacher's answers (n=4)" in shown
    assert "plain text" not in shown


def test_the_page_shows_the_probes_and_hostile_answers_stay_text(
    make_text_result, make_probes
) -> None:
    result = make_text_result(references=3, total=4)
    page = build_page(
        PageParts(results={"m": result}, main="m", probes=make_probes(answer=HOSTILE))
    )

    assert 'id="h-probes"' in page
    assert "Under pressure" in page
    assert "&lt;/td&gt;&lt;script&gt;" in page
    assert HOSTILE not in page
    assert 'id="h-probes"' not in build_page(PageParts(results={"m": result}, main="m"))
