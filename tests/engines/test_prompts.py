from pathlib import Path
from typing import Any

import pytest
from engines.asking import LONG_PROMPT, ask

from prompt_distillation.engines import EngineOptions, RequestFailedError
from prompt_distillation.engines.prompts import PromptEncoder, load_tokenizer
from prompt_distillation.errors import ModelError


@pytest.fixture
def tokenizer(tiny_models) -> Any:
    return load_tokenizer(EngineOptions(model=str(tiny_models.teacher)))


TEXTS = ["one", "two", "", "<|im_start|>user\n", "на русском", "一生", "one" * 50, "  spaces  "]


def test_ids_are_those_of_encoding_the_whole(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, model="m")
    requests = [ask(text, system=system) for system in (LONG_PROMPT, "Short.") for text in TEXTS]
    for request in [*requests, *requests[::-1], ask("no system")]:
        whole = tokenizer.encode(encoder.render(request.messages), add_special_tokens=False)
        assert encoder.encode(request) == whole


def test_the_long_prompt_is_encoded_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PromptEncoder(tokenizer, model="m")
    for text in TEXTS[:3]:
        encoder.encode(ask(text, system=LONG_PROMPT))
    lengths = []
    encode = type(tokenizer).encode

    def counted(self: Any, text: str, **options: Any) -> Any:
        lengths.append(len(text))
        return encode(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "encode", counted)
    encoder.encode(ask("four", system=LONG_PROMPT))
    assert sum(lengths) < 100 < len(LONG_PROMPT)


def test_where_cutting_is_not_exact_every_text_is_encoded_whole(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(tokenizer).encode

    def with_a_beginning(self: Any, text: str, **options: Any) -> Any:
        # As tokenizers do that put a space before a text.
        return encode(self, f" {text}", **options)

    monkeypatch.setattr(type(tokenizer), "encode", with_a_beginning)
    encoder = PromptEncoder(tokenizer, model="m")
    for text in TEXTS:
        request = ask(text, system=LONG_PROMPT)
        whole = tokenizer.encode(encoder.render(request.messages), add_special_tokens=False)
        assert encoder.encode(request) == whole


def test_a_tokenizer_without_a_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        PromptEncoder(tokenizer, model="m")


def test_a_template_that_refuses_fails_the_request(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system turn, please') }}"
    with pytest.raises(RequestFailedError, match="no system turn, please"):
        PromptEncoder(tokenizer, model="m").encode(ask("hello", system="Be brief."))


def test_arguments_reach_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ 'thinks' if enable_thinking | default(true) else 'answers' }}"
    for arguments, rendered in [(None, "thinks"), ({"enable_thinking": False}, "answers")]:
        encoder = PromptEncoder(tokenizer, model="m", chat_template_kwargs=arguments)
        assert encoder.render(ask("hello").messages) == rendered


def test_an_adapter_brings_its_own_tokenizer(tiny_models, tokenizer: Any, tmp_path: Path) -> None:
    base = EngineOptions(model=str(tiny_models.student), adapter=tmp_path)
    assert load_tokenizer(base).chat_template != tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(base).chat_template == tokenizer.chat_template
