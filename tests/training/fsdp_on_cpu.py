"""Runs a script with FSDP2 over gloo: ``fsdp_on_cpu.py FOLDER train_sft_trl.py ...`` per process.

accelerate 1.15 shards on accelerators only: with a CPU it takes DDP, whatever the configuration
says. Told that it has several GPUs, each of which is the CPU, it takes the road that it takes on a
card: the same wrapping, gathering and saving, over another backend. How many modules were sharded
is written to ``FOLDER/<rank>``.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate import accelerator, state
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

start_state = state.AcceleratorState.__init__
shard = accelerator.fsdp2_prepare_model


def start_as_on_gpus(self: Any, *arguments: Any, **options: Any) -> None:
    if not state.AcceleratorState._shared_state:  # later ones are views of the first
        state.PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    start_state(self, *arguments, **options)


def shard_and_count(*arguments: Any) -> Any:
    model = shard(*arguments)
    sharded = sum(isinstance(module, FSDPModule) for module in model.modules())
    (counts / os.environ["RANK"]).write_text(str(sharded), encoding="ascii")
    return model


state.AcceleratorState.__init__ = start_as_on_gpus
accelerator.fsdp2_prepare_model = shard_and_count
counts = Path(sys.argv[1])
sys.argv = sys.argv[2:]
sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))  # as Python does for a script
runpy.run_path(sys.argv[0], run_name="__main__")
