"""A teacher behind a vLLM server: log-probabilities of the student's tokens over /v1/completions.

``prompt_logprobs`` scores a prompt given as token ids, temperature ignored, and lists the most
likely tokens of each position and the token that is there (vLLM 0.32). It computes the whole prompt
for each request: vLLM does not read its prefix cache for them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from prompt_distillation.errors import EngineError

KEY_VARIABLE = "OPENAI_API_KEY"

MOST_LISTED = 20
"""Tokens listed for each position: what a server allows unless it was started with more
(``--max-logprobs``)."""

AT_ONCE = 16
"""Requests in flight: each holds a whole step's worth of long prompts on the server."""

ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Listed:
    """The teacher's view of one position.

    Attributes:
        tokens: the most likely ones, and the one that the student wrote.
        logprobs: of them.
    """

    tokens: list[int]
    logprobs: list[float]


class TeacherServer:
    """Scores token ids by a model that a vLLM server serves.

    Args:
        url: of its OpenAI-compatible API, ending in ``/v1``.
        model: the name it serves.
        timeout_seconds: longest time of one request.

    Raises:
        EngineError: no server answers there, or it does not serve the model.
    """

    def __init__(self, url: str, model: str, *, timeout_seconds: float = 600.0) -> None:
        from openai import OpenAI, OpenAIError

        self._url, self._model = url, model
        self._client = OpenAI(
            base_url=url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            timeout=timeout_seconds,
            max_retries=ATTEMPTS - 1,
        )
        try:
            once = self._client.with_options(max_retries=0)  # a wrong address shows at once
            served = {card.id: card for card in once.models.list().data}
        except OpenAIError as error:
            raise EngineError(
                f"no teacher at --teacher_server_url {url}: {error}; start one with `vllm serve`"
            ) from error
        if model not in served:
            raise EngineError(
                f"the server at {url} does not serve {model!r}; it serves {', '.join(served)}: "
                "pass that as --teacher_model"
            )
        length = (served[model].model_extra or {}).get("max_model_len")
        self.max_length: int | None = int(length) if length else None
        """Longest sequence that it takes, in tokens; None where it does not say."""

    def score(
        self, contexts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> list[list[Listed]]:
        """The teacher's view of each token of each answer.

        Args:
            contexts: what stands before each answer.
            answers: tokens to score.

        Raises:
            EngineError: the server refuses a request, or gives no ``prompt_logprobs``.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._score_one, contexts, answers))

    def _score_one(self, context: list[int], answer: list[int]) -> list[Listed]:
        from openai import OpenAIError

        try:
            made = self._client.completions.create(
                model=self._model,
                prompt=[*context, *answer],
                max_tokens=1,
                extra_body={"prompt_logprobs": MOST_LISTED},
            )
        except OpenAIError as error:
            raise EngineError(f"the teacher at {self._url} did not score: {error}") from error
        positions: list[Any] = (made.choices[0].model_extra or {}).get("prompt_logprobs") or []
        if len(positions) != len(context) + len(answer):
            raise EngineError(
                f"the server at {self._url} gave no prompt_logprobs; --method on_policy needs a "
                "vLLM server"
            )
        return [
            Listed(
                [int(token) for token in position],
                [float(entry["logprob"]) for entry in position.values()],
            )
            for position in positions[len(context) :]
        ]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
