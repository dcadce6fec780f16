import io

from rich.console import Console
from training.tiny_student import build_tokenizer

from prompt_distillation.data.chat_rows import ChatRow
from prompt_distillation.engines.prompts import end_of_turn_ids
from prompt_distillation.training.encode import encode_rows
from prompt_distillation.training.loss_log import show_example


def test_the_example_shows_each_turn_in_its_place_and_no_terminal_obeys_it():
    tokenizer = build_tokenizer()
    turns = [
        {"role": "user", "content": "Wo?\x1b[2J"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "Sicher?"},
    ]
    row = ChatRow(context=tuple(turns), answer={"role": "assistant", "content": "B"}, where="here")
    encoded = encode_rows(
        [row], tokenizer, stop_ids=end_of_turn_ids(tokenizer, None), max_length=999,
        assistant_turns="all",
    )  # fmt: skip
    out = io.StringIO()
    show_example(Console(file=out), encoded.rows[0], tokenizer)
    shown = out.getvalue()
    places = [shown.index(text) for text in ("Wo?\\x1b[2J", "[A]", "Sicher?", "[B]")]
    assert places == sorted(places)
    assert "\x1b" not in shown
