"""Training from scratch on a CPU, with a long prompt, or a few, shared by the rows of a step.

A prompt's keys and values are computed once per step and expanded over its rows; gradients of
all of them flow back through it. That makes a step under 2,000 prompt tokens cost about as much as
one without.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

IGNORED = -100
_CHUNK_BATCHES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One training conversation, as token ids.

    Attributes:
        ids: everything after the shared prompt, or the whole row where it has none.
        trained_from: position in ``ids`` of the first token with a loss.
        shared_prompt: which of the shared prompts the row stands behind; None: behind none.
    """

    ids: Sequence[int]
    trained_from: int
    shared_prompt: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        batch_size: rows per step.
        peak_learning_rate: after the warm-up; falls to a twentieth along a cosine.
        short_prompt_share: share of steps, from the start, that see only a window of the shared
            prompt (at its true positions): they cost half and teach nearly as much.
        router_loss_weight: keeps the experts evenly used; 0 for a dense model.
    """

    steps: int
    batch_size: int
    peak_learning_rate: float
    short_prompt_share: float = 0.0
    prompt_window: int = 160
    weight_decay: float = 0.1
    router_loss_weight: float = 0.01
    warmup_steps: int = 100
    log_every: int = 25


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """What one logged step looked like; losses are means since the last one."""

    step: int
    loss: float
    seconds: float


def encode_row(
    tokenizer: PreTrainedTokenizerFast,
    *,
    system: str | None,
    text: str,
    completion: str,
    piece_dropout: float = 0.0,
) -> Row:
    """Tokenise a conversation; the shared prompt, if any, is not part of it.

    Args:
        tokenizer: with the chat template of the model.
        system: content of a system message of the row's own, or None.
        text: what the user writes.
        completion: what follows the generation prompt, the end of the turn included.
        piece_dropout: chance of each merge of the question's tokenisation to be skipped, so that
            a word is met in many splits (BPE-dropout, https://arxiv.org/abs/1910.13267).
    """
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    head = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    pieces = tokenizer.backend_tokenizer.model
    pieces.dropout = piece_dropout or None
    head_ids = tokenizer(head, add_special_tokens=False).input_ids
    pieces.dropout = None
    tail_ids = tokenizer(completion, add_special_tokens=False).input_ids
    return Row(ids=[*head_ids, *tail_ids], trained_from=len(head_ids))


def train(
    model: PreTrainedModel,
    draw_row: Callable[[], Row],
    plan: Plan,
    *,
    prompts: Sequence[Sequence[int]] = (),
    rng: random.Random,
    on_log: Callable[[StepLog], None],
) -> list[StepLog]:
    """Train in place; returns the log."""
    optimizer = _optimizer(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, plan))
    logs: list[StepLog] = []
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, rows in enumerate(_batches(draw_row, plan, rng), start=1):
        short = step <= plan.short_prompt_share * plan.steps
        size = plan.prompt_window if short else None
        windows = [_window(len(prompt), size, rng) for prompt in prompts]
        loss = _step_loss(model, rows, prompts, windows, plan.router_loss_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % plan.log_every == 0 or step == plan.steps:
            mean = sum(losses) / len(losses)
            logs.append(StepLog(step=step, loss=mean, seconds=time.monotonic() - started))
            on_log(logs[-1])
            losses.clear()
    model.eval()
    return logs


def _optimizer(model: PreTrainedModel, plan: Plan) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak_learning_rate, betas=(0.9, 0.98), fused=True)


def _learning_rate(step: int, plan: Plan) -> float:
    """Share of the peak: linear warm-up, then a cosine down to 5 %."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, done))) / 2


def _batches(draw_row: Callable[[], Row], plan: Plan, rng: random.Random) -> Iterator[list[Row]]:
    """``plan.steps`` batches of rows of similar length, so that little is padding."""
    left = plan.steps
    while left > 0:
        count = min(_CHUNK_BATCHES, left)
        rows = [draw_row() for _ in range(count * plan.batch_size)]
        rows.sort(key=lambda row: len(row.ids))
        batches = [rows[i : i + plan.batch_size] for i in range(0, len(rows), plan.batch_size)]
        rng.shuffle(batches)
        yield from batches
        left -= count


def _window(length: int, size: int | None, rng: random.Random) -> slice:
    """All of the prompt, or a random stretch of ``size`` tokens."""
    if size is None or size >= length:
        return slice(0, length)
    start = rng.randint(0, length - size)
    return slice(start, start + size)


def _step_loss(
    model: PreTrainedModel,
    rows: list[Row],
    prompts: Sequence[Sequence[int]],
    windows: Sequence[slice],
    router_weight: float,
) -> torch.Tensor:
    """Mean loss of the trained tokens of all rows, plus the router's balance."""
    total = torch.zeros(())
    count = 0
    spans = [*zip(range(len(prompts)), prompts, windows, strict=True), (None, (), slice(0, 0))]
    for number, ids, span in spans:
        group = [row for row in rows if row.shared_prompt == number]
        if group:
            loss, tokens = _group_loss(model, group, ids, span, router_weight)
            total, count = total + loss, count + tokens
    return total / count


def _group_loss(
    model: PreTrainedModel,
    rows: list[Row],
    prompt_ids: Sequence[int],
    window: slice,
    router_weight: float,
) -> tuple[torch.Tensor, int]:
    """Summed loss of rows that share a prompt (or have none), and the number of trained tokens."""
    ids, labels, real = _padded(rows)
    cache, seen = None, torch.arange(len(prompt_ids))[window]
    if prompt_ids:
        cache = DynamicCache(config=model.config)
        prompt = torch.tensor(prompt_ids)[window].unsqueeze(0)
        model.base_model(
            prompt, position_ids=seen.unsqueeze(0), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(len(rows))
    positions = torch.arange(len(prompt_ids), len(prompt_ids) + ids.shape[1]).unsqueeze(0)
    mask = torch.cat([torch.ones(len(rows), len(seen), dtype=torch.bool), real], dim=1)
    routed = {"output_router_logits": True} if router_weight else {}
    output = model.base_model(
        ids, position_ids=positions, attention_mask=mask, past_key_values=cache,
        use_cache=cache is not None, **routed,
    )  # fmt: skip
    trained = labels[:, 1:] != IGNORED
    logits = model.lm_head(output.last_hidden_state[:, :-1][trained])
    loss = cross_entropy(logits, labels[:, 1:][trained], reduction="sum")
    tokens = int(trained.sum())
    if not router_weight:
        return loss, tokens
    balance = load_balancing_loss_func(
        output.router_logits, model.config.num_experts, model.config.num_experts_per_tok
    )
    return loss + router_weight * tokens * balance, tokens


def _padded(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and mask of real tokens, each ``(rows, longest row)``."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = torch.tensor(row.ids)
        labels[number, row.trained_from : length] = ids[number, row.trained_from : length]
        real[number, :length] = True
    return ids, labels, real
