"""Is the adapter alive? Log-probabilities of the answers by every way the student may be loaded.

A merge that forgets the experts, or a server that loads an adapter and leaves half of it out, still
answers, only worse. So the same answers to the same inputs are scored by the base model, by base +
adapter, by base + adapter without its expert part, by the merged checkpoint, by the quantised one,
and by vLLM. Those that should agree must agree, and those that should differ must differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prompt_distillation.engines.base import EngineOptions
from prompt_distillation.machine import choose_device
from prompt_distillation.training.held_out_answers import Question

BASE = "base"
ADAPTER = "base + adapter"
WITHOUT_EXPERTS = "base + adapter, experts left out"
MERGED = "merged"
SERVED = "merged, served by vLLM"
QUANTISED = "quantised"
SERVED_QUANTISED = "quantised, served by vLLM"

Scores = Mapping[str, torch.Tensor]
"""Way of loading -> log-probabilities in nats, of shape (inputs, answers)."""

LIVE_NATS = 0.01
"""Mean absolute difference below which two ways count as the same: far under any training, and
over what float32 kernels differ by."""

AGREEING_SHARE = 0.1
"""How much two ways that should agree may differ, as a share of what the adapter changed; bfloat16
rounding of merged weights measures a few per cent."""

QUANTISED_SHARE = 0.2
"""The same for a merged model and its quantised form, which are never equal: more, and most of what
was learnt would be at stake. The example student measures 0.016."""


@dataclass(frozen=True, kw_only=True)
class MergeCheck:
    """Two ways of loading, side by side.

    Attributes:
        should_agree: what is expected of them.
        difference: mean absolute difference in nats.
        limit: the largest (agree) or smallest (differ) difference allowed.
    """

    first: str
    second: str
    should_agree: bool
    difference: float
    limit: float

    @property
    def expected(self) -> str:
        """What they should do."""
        return "agree" if self.should_agree else "differ"

    @property
    def passes(self) -> bool:
        """Whether it is as expected."""
        return (self.difference <= self.limit) == self.should_agree


def check_merge(scores: Scores) -> list[MergeCheck]:
    """Judge every pair of ways that matters and was scored."""

    def difference(first: str, second: str) -> float:
        return float((scores[first] - scores[second]).abs().mean())

    changed = difference(BASE, ADAPTER)
    pairs = [
        (BASE, ADAPTER, None),
        (WITHOUT_EXPERTS, ADAPTER, None),
        (ADAPTER, MERGED, AGREEING_SHARE),
        (BASE, MERGED, None),
        (MERGED, SERVED, AGREEING_SHARE),
        (BASE, SERVED, None),
        (MERGED, QUANTISED, QUANTISED_SHARE),
        (BASE, QUANTISED, None),
        (QUANTISED, SERVED_QUANTISED, AGREEING_SHARE),
        (BASE, SERVED_QUANTISED, None),
    ]
    return [
        MergeCheck(
            first=first,
            second=second,
            should_agree=share is not None,
            difference=difference(first, second),
            limit=LIVE_NATS if share is None else max(LIVE_NATS, share * changed),
        )
        for first, second, share in pairs
        if first in scores and second in scores
    ]


def same_best(scores: Scores, first: str, second: str) -> float:
    """Share of inputs to which two ways of loading would give the same answer."""
    return float((scores[first].argmax(1) == scores[second].argmax(1)).float().mean())


def score(model: Any, asked: Sequence[Question], answers: Sequence[list[int]]) -> torch.Tensor:
    """Log-probability of each answer to each input, by a transformers model.

    Args:
        model: in evaluation mode.
        asked: inputs; their own answers are not used.
        answers: token ids of each answer, its end of turn included.

    Returns:
        Float tensor of shape (inputs, answers), nats summed over an answer's tokens.
    """
    longest = max(map(len, answers))
    rows = []
    for question in asked:
        start = len(question.context)
        ids = torch.zeros(len(answers), start + longest, dtype=torch.long)
        for row, answer in enumerate(answers):
            # What follows an answer cannot change it: attention is causal.
            ids[row, : start + len(answer)] = torch.tensor([*question.context, *answer])
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device)).logits[:, start - 1 : -1]
        logprobs = logits.float().log_softmax(-1).cpu()
        taken = logprobs.gather(-1, ids[:, start:, None])[..., 0]  # (answers, longest)
        inside = torch.tensor([[i < len(answer) for i in range(longest)] for answer in answers])
        rows.append((taken * inside).sum(-1))
    return torch.stack(rows)


def score_adapter(
    model: Any, asked: Sequence[Question], answers: Sequence[list[int]]
) -> dict[str, torch.Tensor]:
    """Scores of the base, of base + adapter, and without the experts' part where there is one."""
    from peft.tuners.lora import ParamWrapper

    with model.disable_adapter():
        scores = {BASE: score(model, asked, answers)}
    scores[ADAPTER] = score(model, asked, answers)
    experts = [
        layer.weight
        for module in model.modules()
        if isinstance(module, ParamWrapper)
        for layer in module.lora_B.values()
    ]
    if experts:
        kept = [weight.detach().clone() for weight in experts]
        with torch.no_grad():
            for weight in experts:
                weight.zero_()
            scores[WITHOUT_EXPERTS] = score(model, asked, answers)
            for weight, before in zip(experts, kept, strict=True):
                weight.copy_(before)
    return scores


def score_served(
    folder: Path, asked: Sequence[Question], answers: Sequence[list[int]]
) -> torch.Tensor:
    """As `score`, by a vLLM engine that loads the merged checkpoint in ``folder``."""
    from prompt_distillation.engines.vllm_start import vllm_environment

    options = EngineOptions(model=str(folder))
    longest = max(len(question.context) for question in asked) + max(map(len, answers))
    with vllm_environment(options, device=choose_device(options.device)):
        from vllm import LLM, SamplingParams

        engine = LLM(
            model=options.model,
            enforce_eager=True,
            max_model_len=longest + 8,
            disable_log_stats=True,
        )
    prompts = [
        {"prompt_token_ids": [*question.context, *answer]}
        for question in asked
        for answer in answers
    ]
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    scores = []
    for output, (question, answer) in zip(
        outputs, ((q, a) for q in asked for a in answers), strict=True
    ):
        taken = output.prompt_logprobs[len(question.context) :]
        scores.append(sum(at[token].logprob for at, token in zip(taken, answer, strict=True)))
    engine.llm_engine.engine_core.shutdown()
    return torch.tensor(scores).reshape(len(asked), len(answers))
