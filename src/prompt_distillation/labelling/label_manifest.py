"""What decides a completion, what decides a dataset, and whether that dataset is there already.

A completion is found again by the settings that shape it (`teacher_identity`) and by its input,
wherever that moved in the file and however the file was sharded. What only judges a completion (the
answer pattern, votes, retries, the held-out share) costs no new completion when it changes.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prompt_distillation.config import flat
from prompt_distillation.config.label_config import LabelConfig
from prompt_distillation.data.dataset_files import DatasetPaths, Manifest, Shard
from prompt_distillation.data.files import read_json
from prompt_distillation.data.locks import is_lock
from prompt_distillation.engines.prompts import read_chat_template
from prompt_distillation.errors import InputError, NoLabelsError, OutputExistsError
from prompt_distillation.labelling.dataset import Counts
from prompt_distillation.labelling.disagreements import Corrections
from prompt_distillation.labelling.input_spool import InputSpool
from prompt_distillation.labelling.journal import Journal, is_journal
from prompt_distillation.labelling.labeller import Labeller
from prompt_distillation.provenance import model_fingerprint, provenance, sha256_of_file
from prompt_distillation.tasks import RejectReason, Task

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "max_tokens", "max_thinking_tokens", "seed")


def teacher_identity(config: LabelConfig, task: Task) -> dict[str, object]:
    """All that shapes a completion except the input, as JSON can hold it."""
    fingerprint = model_fingerprint(config.model.model_name)
    identity: dict[str, object] = {
        "task": task.name,
        "kind": task.kind,
        "prompt_sha256": task.prompt_sha256,
        # A folder's hash, where there is one: the same weights under another path are the same.
        "model": fingerprint.get("sha256", fingerprint["name"]),
        "revision": config.model.revision,
        "temperature": config.sampling.temperature,
        "top_p": config.sampling.top_p,
        "max_tokens": config.max_tokens,
        "max_thinking_tokens": config.sampling.max_thinking_tokens,
        "seed": config.sampling.seed,
    }
    # Only where they are set: journals of before these settings stay valid.
    later = {
        "base_model": config.model.base_model,
        "chat_template_kwargs": config.model.chat_template_kwargs,
        "chat_template": read_chat_template(config.model.chat_template_path),
        "prefill": config.sampling.prefill,
        "decoding": config.decoding if config.decoding != "free" else None,
    }
    return identity | {name: value for name, value in later.items() if value}


def dataset_settings(
    config: LabelConfig,
    task: Task,
    *,
    identity: Mapping[str, object],
    inputs: InputSpool,
    corrections: Corrections,
) -> dict[str, object]:
    """All that decides the dataset, as JSON can hold it: equal settings, equal dataset."""
    # Only where it is set: datasets of before this setting stay finished.
    soft = {"top_logprobs": config.top_logprobs} if config.top_logprobs else {}
    return {
        **soft,
        **identity,
        **asdict(config.votes),
        **task.answers.settings,
        "held_out": config.held_out,
        "duplicates": config.duplicates,
        "inputs": inputs.count,
        "inputs_sha256": inputs.sha256,
        "corrections_sha256": corrections.sha256,
    }


def make_manifest(
    config: LabelConfig,
    task: Task,
    *,
    settings: dict[str, object],
    counts: Counts,
    sha256: tuple[str, str | None],
    labeller: Labeller,
    started: float,
) -> Manifest:
    """The manifest of a dataset that was just written."""
    model = config.model
    return {
        "task": {
            "name": task.name,
            "kind": task.kind,
            "path": str(task.path),
            "prompt_sha256": task.prompt_sha256,
            "labels": list(task.labels),
        },
        "model": model_fingerprint(model.model_name) | {"revision": model.revision},
        "sampling": {name: settings[name] for name in SAMPLING},
        "held_out": {"share": config.held_out, "seed": config.sampling.seed},
        "input_file": str(config.input_file),
        "dataset_sha256": sha256[0],
        "replaced_sha256": sha256[1],
        "counts": counts.as_dict(),
        "engine": labeller.engine,
        "seconds": round(time.monotonic() - started, 3),
        "startup_seconds": round(labeller.startup_seconds, 3),
        "requests_made": labeller.requests_made,
        "settings": settings,
        "config": flat(config),
        "provenance": provenance(),
    }


class EarlierRun:
    """What is at the output: nothing, a dataset and its manifest, or somebody else's files."""

    def __init__(self, paths: DatasetPaths) -> None:
        self._paths = paths
        self.manifest: Mapping[str, Any] = _read_manifest(paths.manifest)
        self.dataset_sha256 = sha256_of_file(paths.dataset) if paths.dataset.is_file() else None

    def owner_of(self, shard: Shard) -> Callable[[Path], bool]:
        """A function that says whether a file at an output's path was written by labelling."""
        journals = {self._paths.journal(other) for other in (shard, *self._paths.shards())}
        locks = {path.with_suffix(".lock") for path in journals}
        # A run that was killed leaves the journal, and perhaps parts without a manifest.
        has_journal = any(path.is_file() and is_journal(path) for path in journals)

        def is_ours(path: Path) -> bool:
            if path in journals:
                return path.is_file() and is_journal(path)
            if path in locks:
                return is_lock(path)
            if not path.is_file():
                return False  # a pipe or a device
            if path == self._paths.dataset:
                hashes = ("dataset_sha256", "replaced_sha256")
                return self.dataset_sha256 in [self.manifest.get(name) for name in hashes]
            if path == self._paths.manifest:
                return bool(self.manifest)
            return bool(self.manifest) or has_journal

        return is_ours

    def is_finished(self, settings: Mapping[str, object], *, model: str, overwrite: bool) -> bool:
        """Whether the dataset of ``settings`` is there, whole; False if it may be written.

        A dataset is not finished while inputs failed because of engine errors: the next run asks
        for those again.
        """
        if self.dataset_sha256 is None or not self.manifest:
            return False
        models = (str(self.manifest.get("model", {}).get("name")), model)
        changed = describe_changes(self.manifest.get("settings", {}), settings, models=models)
        if changed and not overwrite:
            raise OutputExistsError(
                f"{self._paths.dataset} already exists and is not what this command makes: "
                f"{', '.join(changed)}; pass --overwrite to write it again (the journal is kept, "
                "and what it holds of the new settings is not paid for again), or choose another "
                "--output_file"
            )
        if changed or self.dataset_sha256 != self.manifest["dataset_sha256"]:
            return False
        failed = self.manifest["counts"]["rejects"].get(RejectReason.ENGINE_ERROR, 0)
        if failed:
            logger.info("%d inputs failed in the engine before; asking for them again", failed)
        return not failed


def _read_manifest(path: Path) -> Mapping[str, Any]:
    """The manifest that is there; empty if there is none, or not one of ours."""
    try:
        manifest = read_json(path)
    except InputError:
        return {}
    ours = {"settings": dict, "counts": dict, "model": dict, "dataset_sha256": str}
    is_ours = all(isinstance(manifest.get(name), kind) for name, kind in ours.items())
    return manifest if is_ours and isinstance(manifest["counts"].get("rejects"), dict) else {}


def refuse_empty(paths: DatasetPaths, counts: Counts) -> None:
    """Check that there is something to train on, so that no script continues with nothing."""
    if counts.rejected == counts.inputs:
        raise NoLabelsError(
            f"all {counts.inputs} inputs were rejected, so {paths.dataset} is empty; read why in "
            f"{paths.rejects}, then change the prompt, the teacher or its sampling"
        )
    if not counts.train:
        raise NoLabelsError(
            f"{paths.dataset} is empty: {counts.held_out} inputs are held out and "
            f"{counts.rejected} were rejected (see {paths.rejects}); bring more inputs, or label "
            "with a smaller --held_out"
        )


def describe_changes(
    before: Mapping[str, Any],
    now: Mapping[str, object],
    *,
    models: tuple[str, str] | None = None,
) -> list[str]:
    """What differs between two settings, a few words each."""
    changes = []
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) == now.get(name):
            continue
        if name == "model":
            changes.append(_model_change(models))
        elif name.endswith("_sha256"):
            changes.append(f"the {name.removesuffix('_sha256')} changed")
        else:
            changes.append(f"{name} was {before.get(name)!r} and is {now.get(name)!r}")
    return changes


def _model_change(models: tuple[str, str] | None) -> str:
    """Shows the names that were given: the digest of a folder means nothing to a reader."""
    if models is None:
        return "the model changed"
    before, now = models
    if before == now:
        return f"the files of the model at {now} changed"
    return f"model was {before!r} and is {now!r}"


def tell_what_is_kept(journal: Journal, identity: Mapping[str, object]) -> None:
    """Say which completions of earlier settings are in the journal, and why they do not count."""
    for earlier, count in journal.earlier_settings():
        logger.warning(
            "%d completions in the journal were made with other settings (%s); they are kept "
            "but not used: %s",
            count,
            "; ".join(describe_changes(earlier, identity)),
            "all inputs are labelled again"
            if not len(journal)
            else "their inputs are labelled again",
        )
