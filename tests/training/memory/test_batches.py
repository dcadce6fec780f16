import pytest

from prompt_distillation.training.memory.batches import MicroBatch, fill_micro_batch


def fill(lengths, max_tokens, *, rows=4, steps=4):
    return fill_micro_batch(lengths, rows=rows, accumulation_steps=steps, max_tokens=max_tokens)


def test_short_rows_make_one_pass_of_the_whole_step():
    assert fill([30] * 100, 8192) == MicroBatch(16, 1)


def test_the_longest_rows_may_meet_and_must_fit():
    assert fill([2000] * 8 + [10] * 100, 8192) == MicroBatch(4, 4)
    assert fill([2000] * 3 + [10] * 100, 8192) == MicroBatch(16, 1)
    assert fill([800] * 100, 8192) == MicroBatch(8, 2)


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_effective_batch_stays(steps):
    for max_tokens in (100, 500, 1000, 5000):
        batch = fill([40] * 500, max_tokens, rows=3, steps=steps)
        assert batch.rows * batch.accumulation_steps == 3 * steps
