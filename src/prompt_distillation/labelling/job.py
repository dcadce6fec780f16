"""One labelling job: what is asked of whom, how answers are judged, and what it leaves behind."""

from dataclasses import asdict, dataclass, field

from prompt_distillation.data.dataset_files import DatasetPaths, Shard
from prompt_distillation.data.splits import Duplicates
from prompt_distillation.labelling.corrections import Corrections
from prompt_distillation.labelling.counts import Counts
from prompt_distillation.labelling.keys import ContentKeys, Teacher, digest_of
from prompt_distillation.labelling.sources import Census, Source
from prompt_distillation.labelling.votes import Ballots, Policy
from prompt_distillation.provenance import model_fingerprint, provenance
from prompt_distillation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides the dataset, except what the teacher writes.

    Attributes:
        held_out: share of the groups kept out of training, in [0, 1).
        duplicates: which inputs are labelled once and written for each.
        shard: which part this process labels.
    """

    task: Task
    source: Source
    teacher: Teacher
    paths: DatasetPaths
    policy: Policy = field(default_factory=Policy)
    held_out: float = 0.1
    duplicates: Duplicates = "normalised"
    shard: Shard = field(default_factory=Shard)

    def ballots(self) -> Ballots:
        """The judge of this job's completions."""
        return Ballots(
            self.task,
            self.policy,
            temperature=self.teacher.temperature,
            max_tokens=self.teacher.max_tokens,
        )

    def keys(self, identity: dict[str, object]) -> ContentKeys:
        """The keys of this job's inputs."""
        return ContentKeys(digest_of(identity), duplicates=self.duplicates)

    def settings(self, census: Census, corrections: Corrections) -> dict[str, object]:
        """All that decides the dataset, as JSON can hold it: equal settings, equal dataset."""
        return {
            **self.teacher.identity(self.task),
            **asdict(self.policy),
            **self.task.answers.settings,
            "held_out": self.held_out,
            "duplicates": self.duplicates,
            "inputs": census.inputs,
            "inputs_sha256": census.sha256,
            "corrections_sha256": corrections.sha256,
        }

    def manifest(
        self,
        *,
        settings: dict[str, object],
        counts: Counts,
        dataset_sha256: str,
        seconds: float,
        requests_made: int,
        config: dict[str, object],
    ) -> dict[str, object]:
        """What stands beside the dataset.

        Args:
            settings: from `Job.settings`.
            counts: of the dataset.
            dataset_sha256: of the dataset's file.
            seconds: this run took.
            requests_made: in that time; the others of the dataset were in the journal before.
            config: the command's own configuration, as it was resolved.
        """
        return {
            "task": {
                "name": self.task.name,
                "kind": self.task.kind,
                "path": str(self.task.path),
                "prompt_sha256": self.task.prompt_sha256,
                "labels": list(self.task.labels),
            },
            "model": model_fingerprint(self.teacher.model) | {"revision": self.teacher.revision},
            "sampling": {
                "temperature": self.teacher.temperature,
                "top_p": self.teacher.top_p,
                "max_tokens": self.teacher.max_tokens,
                "max_thinking_tokens": self.teacher.max_thinking_tokens,
                "seed": self.teacher.seed,
            },
            "held_out": {"share": self.held_out, "seed": self.teacher.seed},
            "input_file": str(self.source.path),
            "dataset_sha256": dataset_sha256,
            "counts": counts.as_dict(),
            "seconds": round(seconds, 3),
            "requests_made": requests_made,
            "settings": settings,
            "config": config,
            "provenance": provenance(),
        }
