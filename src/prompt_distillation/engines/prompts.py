"""From a conversation to token ids, by the model's own chat template.

Labelling sends the same long system prompt with every input. Its tokens are computed once: a text
may be cut in front of a special token without changing how either side is tokenised, so what
successive conversations share up to such a place is encoded once and reused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from jinja2 import TemplateError

from prompt_distillation.engines.base import EngineOptions, Request, RequestFailedError
from prompt_distillation.engines.prefixes import shared_prefix_length
from prompt_distillation.errors import ModelError
from prompt_distillation.tasks import ChatMessage

# Below this, encoding is cheaper than looking for what is shared.
SHORTEST_SHARED_CHARACTERS = 256


def load_tokenizer(options: EngineOptions) -> Any:
    """The tokenizer that belongs to the model: the adapter's own, where it was saved with one.

    An adapter is trained on conversations that its tokenizer rendered; the base model's chat
    template may be another.

    Raises:
        ModelError: there is none, or its files cannot be read.
    """
    from transformers import AutoTokenizer

    source, revision = options.model, options.revision
    if options.adapter is not None and (options.adapter / "tokenizer_config.json").is_file():
        source, revision = str(options.adapter), None
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of {source}: {error}") from error


class PromptEncoder:
    """Renders and encodes conversations for one model, and decodes what it wrote.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        model: the model's name, for errors.
        chat_template_kwargs: arguments of the template besides the conversation.

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
                "model, or add a chat_template.jinja to its folder"
            )
        self.tokenizer = tokenizer
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._previous_text = ""
        self._shared_text = ""
        self._shared_ids: list[int] = []
        self._sharing = True

    @classmethod
    def of(cls, options: EngineOptions) -> Self:
        """The encoder of an engine's model; loads its tokenizer.

        Raises:
            ModelError: there is no tokenizer, or it has no chat template.
        """
        return cls(
            load_tokenizer(options),
            model=options.model,
            chat_template_kwargs=options.chat_template_kwargs,
        )

    def render(self, messages: Sequence[ChatMessage], *, prefill: str = "") -> str:
        """The conversation as the model reads it, up to where the assistant begins to write.

        Raises:
            RequestFailedError: the template refuses the conversation.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self._template_kwargs
            )
        except TemplateError as error:
            raise RequestFailedError(
                f"the chat template refuses this conversation: {error}"
            ) from error
        return f"{text}{prefill}"

    def encode(self, request: Request) -> list[int]:
        """Token ids of the rendered conversation, exactly those of encoding it whole."""
        text = self.render(request.messages, prefill=request.prefill)
        if self._shared_text and text.startswith(self._shared_text):
            return self._shared_ids + self._encode_text(text[len(self._shared_text) :])
        ids = self._encode_text(text)
        if self._sharing:
            self._learn_shared(text, ids)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of new tokens, special ones included.

        ``</think>`` is special in some tokenizers, and the answer is what follows it.
        """
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def _encode_text(self, text: str) -> list[int]:
        # The template has written the special tokens already.
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _learn_shared(self, text: str, ids: list[int]) -> None:
        """Remember what ``text`` shares with the text before it, if cutting there is exact."""
        common = text[: shared_prefix_length([self._previous_text, text])]
        self._previous_text = text
        cut = max((common.rfind(token) for token in self.tokenizer.all_special_tokens), default=-1)
        if cut < SHORTEST_SHARED_CHARACTERS:
            return
        shared = text[:cut]
        shared_ids = self._encode_text(shared)
        if shared_ids + self._encode_text(text[cut:]) == ids:
            self._shared_text, self._shared_ids = shared, shared_ids
        else:
            # Some tokenizers treat a text's beginning apart; then every text is encoded whole.
            self._sharing = False
