from prompt_distillation.evaluation.calibration import coverage
from prompt_distillation.evaluation.cascade import Trial, cascade
from prompt_distillation.report.confidence_text import accuracy_at, cascade_lines


def lines_of(*tried: tuple[float, bool, bool]) -> str:
    return " ".join(
        cascade_lines(
            cascade(
                [
                    Trial(confidence=sure, student_right=ours, teacher_right=theirs, group=str(at))
                    for at, (sure, ours, theirs) in enumerate(tried)
                ]
            )
        )
    )


def test_what_a_cascade_does_is_said_in_words() -> None:
    assert "not known" in lines_of()
    assert "no threshold reaches the teacher alone 100.0%" in lines_of((0.9, False, True))
    assert "nothing has to fall back" in lines_of((0.9, True, True), (0.3, True, False))
    some = lines_of((0.9, True, True), (0.3, False, True))
    assert "at a confidence of at least 0.900 the student answers, 50.0% of inputs" in some
    assert "only the cascade right on" in some


def test_accuracy_of_the_surest_share() -> None:
    points = coverage([(0.9, True), (0.8, True), (0.7, False), (0.7, True)])

    assert [accuracy_at(points, share) for share in (0.25, 0.5, 0.6, 1.0)] == [1.0, 1.0, 0.75, 0.75]
