"""From a conversation to token ids, by the model's own chat template.

Training and every engine of ours use `PromptEncoder`, so that a student reads in production what it
read in training. Two things make it more than a call of the template:

- **Contents are data.** Text in a content that spells one of the template's marks, such as
  ``<|im_end|>`` or ``<think>``, must not become that token, or an input could end its own turn and
  begin another. Such text is cut behind its first character, and the parts are tokenised apart.
- **A long prompt is tokenised once.** A text may be cut in front of a special token without
  changing how either side is tokenised, so what successive conversations share up to such a place
  is encoded once and reused.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError

from prompt_distillation.engines.base import EngineOptions, Request, RequestFailedError
from prompt_distillation.errors import ModelError
from prompt_distillation.examples import find_example
from prompt_distillation.tasks import END_OF_THINKING, START_OF_THINKING, ChatMessage

# Below this, encoding is cheaper than looking for what is shared.
SHORTEST_SHARED_CHARACTERS = 256

# What a prefill begins with that ends the reasoning.
CLOSING = re.compile(rf"\s*{END_OF_THINKING}\s*")

# Stands in a rendered text where it has to be cut. For private use: of no text that means anything.
CUT = "\ue000"
PRIVATE_USE = range(0xE000, 0xF900)


def shared_prefix_length(sequences: Sequence[str] | Sequence[list[int]]) -> int:
    """How many leading elements (characters, token ids) all of ``sequences`` share.

    >>> shared_prefix_length(["abc", "abd"])
    2
    """
    return len(os.path.commonprefix(sequences))  # noqa: RUF071 - characters are what is meant


def read_chat_template(path: Path | None) -> str | None:
    """The text of ``--chat_template_path``; None where it is not given.

    Raises:
        ModelError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        return find_example(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read --chat_template_path {path}: {error}") from error


def load_tokenizer(options: EngineOptions) -> Any:
    """The tokenizer that belongs to the model: the adapter's own, where it was saved with one.

    An adapter is trained on conversations that its tokenizer rendered; the base model's chat
    template may be another. A template in ``options`` replaces either.
    """
    from transformers import AutoTokenizer

    source, revision = options.model, options.revision
    if options.adapter is not None and (options.adapter / "tokenizer_config.json").is_file():
        source, revision = str(options.adapter), None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {source}: {error}") from error
    if options.chat_template is not None:
        tokenizer.chat_template = options.chat_template
    return tokenizer


def end_of_turn_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Ids at which an engine stops: the tokenizer's, and those of the generation config."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


class TemplateMarks:
    """Texts that the tokenizer turns into one special token, wherever they occur.

    These are its special tokens, the marks of thinking, and other added tokens that the chat
    template writes, as DeepSeek's does. Added tokens that are just text (Gemma has one for every
    run of line feeds) are none.
    """

    def __init__(self, tokenizer: Any) -> None:
        written = f"{tokenizer.chat_template} {START_OF_THINKING} {END_OF_THINKING}"
        added = [
            token
            for token in tokenizer.added_tokens_decoder.values()
            if (token.special or token.content in written) and len(token.content.strip()) > 1
        ]
        texts = {token.content for token in added}
        self._first_characters = tuple({text[0] for text in texts})
        self._all = _starts_of(texts)
        # An assistant's turn may carry its reasoning: what becomes of it is the template's matter.
        self._of_turns = _starts_of(texts - {START_OF_THINKING, END_OF_THINKING})
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        looks_after = normalizer is not None and any(token.normalized for token in added)
        self._normalizer = normalizer if looks_after else None
        # Every conversation has the same prompt.
        self._cached = lru_cache(maxsize=64)(self._found)

    def may_be_in(self, content: str) -> bool:
        """Whether ``content`` has to be looked at closely; a quick test, and nearly always no."""
        if CUT in content or self._normalizer is not None:
            return True
        # Not any(): a generator would take longer than the test.
        for character in self._first_characters:  # noqa: SIM110
            if character in content:
                return True
        return False

    def cut(self, content: str, *, role: str, at: str) -> str:
        """Put ``at`` into every mark that ``content`` spells, behind its first character."""
        content, places = self._cached(content, role)
        edges = [0, *places, len(content)]
        return at.join(content[start:end] for start, end in itertools.pairwise(edges))

    def _found(self, content: str, role: str) -> tuple[str, list[int]]:
        """The content, and where to cut it; normalised where that is what the marks look at."""
        starts = self._of_turns if role == "assistant" else self._all
        if self._normalizer is not None:
            normalised = self._normalizer.normalize_str(content)
            if starts.search(normalised):
                content = normalised
        return content, [match.start() + 1 for match in starts.finditer(content)]


def _starts_of(texts: set[str]) -> "re.Pattern[str]":
    """Matches, with no width, wherever one of the texts begins, also inside another one."""
    return re.compile(f"(?={'|'.join(map(re.escape, sorted(texts)))})" if texts else r"(?!)")


class PromptEncoder:
    """Renders and encodes conversations for one model, and decodes what it wrote.

    Raises:
        ModelError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        model: str,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer.chat_template is None:
            raise ModelError(
                f"the tokenizer of {model} has no chat template; use an instruct or thinking "
                "model, or give it a template with --chat_template_path: "
                "recipes/plain-chat.jinja is one for models that only continue text"
            )
        self.tokenizer = tokenizer
        self._model = model
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._marks = TemplateMarks(tokenizer)
        self._end_of_thinking = tokenizer.encode(END_OF_THINKING, add_special_tokens=False)
        self._previous_text = ""
        self._shared_text = ""
        self._shared_ids: list[int] = []
        self._sharing = True

    @classmethod
    def of(cls, options: EngineOptions) -> Self:
        """The encoder of an engine's model; loads its tokenizer."""
        return cls(
            load_tokenizer(options),
            model=options.model,
            chat_template_kwargs=options.chat_template_kwargs,
        )

    def encode(self, request: Request) -> list[int]:
        """Token ids of a request; see `encode_conversation`."""
        return self.encode_conversation(request.messages, prefill=request.prefill)

    def encode_conversation(
        self, messages: Sequence[ChatMessage], *, prefill: str = ""
    ) -> list[int]:
        r"""Token ids of a conversation, up to where the assistant begins to write.

        Where no content spells a mark, they are exactly those of encoding the rendered text whole.

        Args:
            messages: the turns.
            prefill: text that the answer begins with. One that closes the reasoning, such as
                ``"\n</think>\n\n"``, is written as the template writes it, and left out where
                the model does not reason anyway.

        Raises:
            RequestFailedError: the template refuses the conversation.
        """
        turns, cut = self._as_data(messages, prefill)
        text = self._beginning(turns, prefill)
        if cut != CUT:
            return self._encode_text(text, cut)
        if self._shared_text and text.startswith(self._shared_text):
            return self._shared_ids + self._encode_text(text[len(self._shared_text) :], cut)
        ids = self._encode_text(text, cut)
        if self._sharing:
            self._learn_shared(text, ids)
        return ids

    def encode_example(
        self, context: Sequence[ChatMessage], answer: ChatMessage
    ) -> tuple[list[int], list[int]]:
        """Token ids of a training example: of its context, and of what the template puts after it.

        The first are those of ``encode_conversation(context)``; the second are the answer, the end
        of the turn, and whatever the template writes behind that.

        Raises:
            RequestFailedError: the template refuses the conversation.
            ModelError: it renders the context differently once an answer follows, so that training
                and serving would not agree.
        """
        turns, cut = self._as_data([*context, answer])
        before = self._render(turns[:-1])
        whole = self._render(turns, add_generation_prompt=False)
        if not whole.startswith(before):
            raise ModelError(
                f"the chat template of {self._model} renders the context differently once an "
                "answer follows, so training and serving would not agree; use a template that "
                "does not, e.g. with --chat_template_path"
            )
        return self._encode_text(before, cut), self._encode_text(whole[len(before) :], cut)

    def render(self, messages: Sequence[ChatMessage], *, prefill: str = "") -> str:
        """The text of `encode_conversation`, for people."""
        turns, cut = self._as_data(messages, prefill)
        return self._beginning(turns, prefill).replace(cut, "")

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of new tokens, special ones included.

        ``</think>`` is special in some tokenizers, and the answer is what follows it.
        """
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def answer_start(self, token_ids: Sequence[int]) -> int:
        """Where in new tokens the answer begins: after the last ``</think>``; else at the start."""
        mark, ids = self._end_of_thinking, list(token_ids)
        for end in range(len(ids), len(mark) - 1, -1):
            if ids[end - len(mark) : end] == mark:
                return end
        return 0

    def _as_data(
        self, messages: Sequence[ChatMessage], prefill: str = ""
    ) -> tuple[Sequence[ChatMessage], str]:
        """The turns with a character wherever their text has to be cut, and that character."""
        for turn in messages:
            if self._marks.may_be_in(turn["content"]):
                break
        else:
            if CUT not in prefill:
                return messages, CUT
        everything = "".join([prefill, *(turn["content"] for turn in messages)])
        cut = CUT
        if cut in everything:
            cut = next(chr(code) for code in PRIVATE_USE if chr(code) not in everything)
        turns: list[ChatMessage] = [
            {**turn, "content": self._marks.cut(turn["content"], role=turn["role"], at=cut)}
            for turn in messages
        ]
        return turns, cut

    def _beginning(self, turns: Sequence[ChatMessage], prefill: str) -> str:
        """The rendered turns, and what the answer begins with."""
        text = self._render(turns)
        closing = CLOSING.match(prefill)
        if closing is None or text.rstrip().endswith(START_OF_THINKING):
            return text + prefill
        # Nothing is open. A hybrid model's template closes the reasoning itself when told so;
        # a template without reasoning ignores the argument.
        return self._render(turns, enable_thinking=False) + prefill[closing.end() :]

    def _render(
        self, turns: Sequence[ChatMessage], *, add_generation_prompt: bool = True, **more: Any
    ) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(turns),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **(self._template_kwargs | more),
            )
        except TemplateError as error:
            raise RequestFailedError(
                f"the chat template refuses this conversation: {error}; --chat_template_kwargs "
                "passes arguments to it"
            ) from error
        return text

    def _encode_text(self, text: str, cut: str) -> list[int]:
        # The template has written the special tokens already.
        ids: list[int] = []
        for piece in text.split(cut):
            ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids

    def _learn_shared(self, text: str, ids: list[int]) -> None:
        """Remember what ``text`` shares with the text before it, if cutting there is exact."""
        common = text[: shared_prefix_length([self._previous_text, text])]
        self._previous_text = text
        cut = max((common.rfind(token) for token in self.tokenizer.all_special_tokens), default=-1)
        if cut < SHORTEST_SHARED_CHARACTERS:
            return
        shared = text[:cut]
        shared_ids = self._encode_text(shared, CUT)
        if shared_ids + self._encode_text(text[cut:], CUT) == ids:
            self._shared_text, self._shared_ids = shared, shared_ids
        else:
            # Some tokenizers treat a text's beginning apart; then every text is encoded whole.
            self._sharing = False
