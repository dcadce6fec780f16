import pytest

from prompt_distillation.evaluation.text_overlap import chrf, rouge_l, token_f1


@pytest.mark.parametrize("measure", [token_f1, rouge_l, chrf])
def test_ends_of_the_scale(measure) -> None:
    assert measure("The cat sat on the mat", "The cat sat on the mat") == 1.0
    assert measure("", "") == 1.0
    assert measure("", "word") == 0.0
    assert measure("xyz", "abc") == 0.0


def test_token_f1_counts_words_and_rouge_their_order() -> None:
    # two of three words shared: precision 2/3, recall 2/4
    assert token_f1("cat the dog", "the cat sat down") == pytest.approx(2 * 2 / 7)
    assert rouge_l("cat the dog", "the cat sat down") == pytest.approx(2 * 1 / 7)


def test_chrf_is_the_mean_of_f2_over_orders() -> None:
    # "ab" against "abc": order 1: P 1, R 2/3; order 2: P 1, R 1/2; order 3: nothing given, F 0
    f2 = [5 * 2 / (2 + 4 * 3), 5 * 1 / (1 + 4 * 2), 0.0]
    assert chrf("ab", "abc") == pytest.approx(sum(f2) / 3)
