"""Whether the output that is asked for is already there, and if not, what stands in its place."""

import logging
from collections.abc import Mapping
from typing import Any

from prompt_distillation.data.dataset_files import DatasetPaths
from prompt_distillation.data.files import read_json
from prompt_distillation.errors import InputError, NoLabelsError, OutputExistsError
from prompt_distillation.labelling.journal import Journal
from prompt_distillation.provenance import sha256_of_file
from prompt_distillation.tasks import RejectReason

logger = logging.getLogger(__name__)


def is_finished(
    paths: DatasetPaths, settings: Mapping[str, object], *, model: str, overwrite: bool
) -> bool:
    """Whether the dataset of ``settings`` is there, whole; False if it may be written.

    A dataset with inputs that failed for want of an engine is never finished: asking for it again
    asks for those again.

    Args:
        paths: of the dataset.
        settings: all that decides it.
        model: the teacher as it was given, for the message; ``settings`` may hold its digest.
        overwrite: whether another dataset may be replaced.

    Raises:
        OutputExistsError: another dataset is there and ``overwrite`` is false; the message says
            what differs.
        NoLabelsError: it is there, and all of its inputs were rejected.
    """
    if not paths.dataset.exists():
        return False
    manifest = _manifest_of(paths)
    changed = _changed(manifest, settings, model)
    if not changed:
        failed = manifest["counts"]["rejects"].get(RejectReason.ENGINE_ERROR, 0)
        if failed:
            logger.info("%d inputs failed in the engine before; asking for them again", failed)
            return False
        counts = manifest["counts"]
        refuse_empty(paths, inputs=counts["inputs"], rejected=counts["rejected"])
        return True
    if overwrite:
        return False
    raise OutputExistsError(
        f"{paths.dataset} already exists and is not what this command makes: {', '.join(changed)}; "
        "pass --overwrite to write it anew (the journal is kept, and what it holds of the new "
        "settings is not paid for again), or choose another --output_file"
    )


def refuse_empty(paths: DatasetPaths, *, inputs: int, rejected: int) -> None:
    """See that a dataset holds a label: a script must not go on to train on nothing.

    Raises:
        NoLabelsError: all inputs were rejected.
    """
    if rejected == inputs:
        raise NoLabelsError(
            f"all {inputs} inputs were rejected, so {paths.dataset} is empty; read why in "
            f"{paths.rejects}, then change the prompt, the teacher or its sampling"
        )


def _manifest_of(paths: DatasetPaths) -> dict[str, Any]:
    """The manifest of the dataset that is there; empty if it has none, or not of this file."""
    try:
        manifest = read_json(paths.manifest)
    except InputError:
        return {}
    if manifest.get("dataset_sha256") != sha256_of_file(paths.dataset):
        return {}
    return manifest


def _changed(manifest: Mapping[str, Any], settings: Mapping[str, object], model: str) -> list[str]:
    if not manifest:
        return ["its manifest is missing or belongs to another file"]
    models = (str(manifest.get("model", {}).get("name")), model)
    return describe_changes(manifest.get("settings", {}), settings, models=models)


def describe_changes(
    before: Mapping[str, Any],
    now: Mapping[str, object],
    *,
    models: tuple[str, str] | None = None,
) -> list[str]:
    """What differs between two settings, a few words each.

    Args:
        before: the earlier settings.
        now: the settings of this run.
        models: the teachers as they were given, before and now; None where that is not known.
    """
    changes = []
    for name, value in now.items():
        if before.get(name) == value:
            continue
        if name == "model":
            changes.append(_model_change(models))
        elif name.endswith("_sha256"):
            changes.append(f"the {name.removesuffix('_sha256')} changed")
        else:
            changes.append(f"{name} was {before.get(name)!r} and is {value!r}")
    return changes


def _model_change(models: tuple[str, str] | None) -> str:
    """In the names that were given: a folder's identity is a digest, which tells nobody a thing."""
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
            "the journal holds %d completions of other settings (%s); they are kept, not used: %s",
            count,
            "; ".join(describe_changes(earlier, identity)),
            "all inputs are labelled anew" if not len(journal) else "the others are",
        )
