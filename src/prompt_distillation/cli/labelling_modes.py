"""What `create_data` does with its flags: label, label a shard, merge, or look before it pays."""

from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from rich.console import Console

from prompt_distillation.checkpoints import resolve_model
from prompt_distillation.config import flat
from prompt_distillation.data.dataset_files import Shard, dataset_paths
from prompt_distillation.data.inputs import Columns
from prompt_distillation.engines import Engine, EngineOptions, engine_options, open_engine
from prompt_distillation.labelling.dry_run import Look, dry_run
from prompt_distillation.labelling.estimate import Prices
from prompt_distillation.labelling.finished import refuse_empty
from prompt_distillation.labelling.job import Job
from prompt_distillation.labelling.keys import Teacher
from prompt_distillation.labelling.label_config import LabelConfig
from prompt_distillation.labelling.run import (
    Reporting,
    create_dataset,
    label_one_shard,
    merge_shards,
)
from prompt_distillation.labelling.sources import Source
from prompt_distillation.labelling.summary import print_summary
from prompt_distillation.labelling.votes import Policy
from prompt_distillation.tasks import load_task


def run_mode(config: LabelConfig) -> None:
    """Do what the flags ask for; raises what labelling raises."""
    job = job_of(config)
    if config.engine.engine != "server" and not config.merge:
        # Reading a million inputs takes longer than seeing that there is no such model.
        resolve_model(config.model.model_name, config.model.base_model)
    if config.dry_run:
        # The estimate is of one teacher's hours, also where a cluster would run many.
        one = replace(config.engine, ray_workers=1)
        alone = replace(config, engine=one) if config.engine.ray_address else config
        dry_run(job, lambda: open_teacher(alone), _look(config), Console())
        return
    reporting = Reporting(interval_seconds=config.progress_seconds, config=flat(config))
    if config.merge:
        counts = merge_shards(job, overwrite=config.overwrite, reporting=reporting)
    elif config.num_shards > 1:
        label_one_shard(
            job, lambda: open_teacher(config), overwrite=config.overwrite, reporting=reporting
        )
        return
    else:
        counts = create_dataset(
            job, lambda: open_teacher(config), overwrite=config.overwrite, reporting=reporting
        )
    if counts is not None:
        print_summary(counts, Console(), rejects=job.paths.rejects)
        refuse_empty(job.paths, inputs=counts.inputs, rejected=counts.rejected)


def job_of(config: LabelConfig) -> Job:
    """The job that the flags describe.

    Raises:
        ConfigError, TaskError: a flag or the task folder is not right.
    """
    return Job(
        task=load_task(config.task),
        source=Source(
            path=config.input_file,
            columns=Columns(
                text=config.inputs.text_field,
                gold=config.inputs.label_field,
                group=config.inputs.group_field,
            ),
            max_samples=config.inputs.max_samples,
        ),
        teacher=Teacher(
            model=config.model.model_name,
            revision=config.model.revision,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_tokens=config.sampling.max_tokens or 4096,
            max_thinking_tokens=config.sampling.max_thinking_tokens,
            seed=config.sampling.seed,
        ),
        paths=dataset_paths(config.output_file),
        policy=Policy(
            thinking=config.votes.thinking,
            max_retries=config.votes.max_retries,
            num_votes=config.votes.num_votes,
            min_agreement=config.votes.min_agreement,
        ),
        held_out=config.held_out,
        duplicates=config.duplicates,
        shard=Shard(index=config.shard_index, count=config.num_shards),
    )


def teacher_options(config: LabelConfig) -> EngineOptions:
    """What the teacher's engine is told."""
    return engine_options(config.model, config.engine, seed=config.sampling.seed)


def open_teacher(config: LabelConfig) -> AbstractAsyncContextManager[Engine]:
    """The teacher, loaded when the context is entered."""
    return open_engine(config.engine.engine, teacher_options(config))


def _look(config: LabelConfig) -> Look:
    prices = Prices(
        per_gpu_hour=config.prices.price_per_gpu_hour,
        per_million_input_tokens=config.prices.price_per_million_input_tokens,
        per_million_output_tokens=config.prices.price_per_million_output_tokens,
    )
    if config.engine.engine == "server":
        # Its template is the server's own; the turns are what we know.
        return Look(
            render=lambda turns: "\n\n".join(f"[{t['role']}]\n{t['content']}" for t in turns),
            count_tokens=None,
            probe_samples=config.probe_samples,
            prices=prices,
        )
    import torch

    from prompt_distillation.engines.prompts import PromptEncoder

    # A cluster's GPUs are elsewhere.
    has_gpus = config.engine.ray_address is not None or torch.cuda.is_available()
    encoder = PromptEncoder.of(teacher_options(config))
    return Look(
        render=encoder.render,
        count_tokens=lambda text: len(encoder.tokenizer.encode(text, add_special_tokens=False)),
        probe_samples=config.probe_samples,
        gpus=config.engine.tensor_parallel_size if has_gpus else 0,
        prices=prices,
    )
