from prompt_distillation.evaluation.confidence import Trial, cascade, coverage
from prompt_distillation.report.sentences import accuracy_at, cascade_sentences, money


def sentences_of(*tried: tuple[float, bool, bool]) -> str:
    return " ".join(
        cascade_sentences(
            cascade(
                [
                    Trial(confidence=sure, student_right=ours, teacher_right=theirs, group=str(at))
                    for at, (sure, ours, theirs) in enumerate(tried)
                ]
            )
        )
    )


def test_what_a_cascade_does_is_said_in_words() -> None:
    assert "not available" in sentences_of()
    assert "no confidence threshold reaches the teacher's accuracy of 100.0%" in sentences_of(
        (0.9, False, True)
    )
    assert "no input needs the teacher" in sentences_of((0.9, True, True), (0.3, True, False))
    some = sentences_of((0.9, True, True), (0.3, False, True))
    assert "the student answers the 50.0% of inputs where its confidence is at least 0.900" in some
    assert "only the cascade gets right" in some


def test_accuracy_of_the_most_confident_share() -> None:
    points = coverage([(0.9, True), (0.8, True), (0.7, False), (0.7, True)])

    assert [accuracy_at(points, share) for share in (0.25, 0.5, 0.6, 1.0)] == [1.0, 1.0, 0.75, 0.75]


def test_small_amounts_keep_their_digits() -> None:
    amounts = [0, 1234.5, 1, 0.36, 0.0842, 0.00314, -0.02]

    assert [money(amount) for amount in amounts] == [
        "0.00", "1,234.50", "1.00", "0.36", "0.084", "0.0031", "-0.020",
    ]  # fmt: skip
