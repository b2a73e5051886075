"""What a run needs before its first step: the base model, the run's keys, what an earlier start left, its course.

Reads: a base model folder, Arrow folders of texts, token folders, a finished checkpoint. Writes: nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedModel

from data.records import CheckpointRef
from data.weights import weights_fingerprint
from train.engine.checkpoint import find_finished
from train.engine.zero_engine import precision
from train.model.packing_probe import arithmetic_of, packing_refusal
from train.run.course import Course, check_ranks, open_course
from train.run.finetune_run import FinetuneRun, exact_settings, run_key
from train.texts.encode import Reader, load_reader


@dataclass(frozen=True)
class Base:
    """The model that all runs of a study start from, loaded once per process."""

    model: PreTrainedModel
    reader: Reader
    fingerprint: str


@dataclass(frozen=True)
class Known:
    """What a run is known by, and its checkpoint if it is finished. Producer: `look_up`. Consumers: tasks, the loop.

    `key` names the run, `state_key` its training states.
    """

    key: str
    state_key: str
    finished: CheckpointRef | None


@dataclass(frozen=True)
class Task:
    """A run that is ready to start. Producer: `prepare`. Consumer: the loop."""

    base: Base
    course: Course
    known: Known

    @property
    def run(self) -> FinetuneRun:
        """The run with its budget in steps."""
        return self.course.run


def look_up(run: FinetuneRun) -> Known:
    """What the run is known by, and what an earlier start left. Raises InputError as `find_finished`, `check_ranks`."""
    check_ranks(run, dist.get_world_size())
    weights, tokenizer = load_base(run.base).fingerprint, load_reader(run.base).fingerprint
    key, state_key = (run_key(which, weights, tokenizer) for which in (run, exact_settings(run)))
    return Known(key, state_key, find_finished(Path(run.out), key))


def prepare(run: FinetuneRun, known: Known) -> Task:
    """The task of a run whose tokens are written."""
    base = load_base(run.base)
    refusal = None if run.layout == "padded" else _packing_refusal(run.base)
    course = open_course(run, refusal, arithmetic_of(base.model), world_size=dist.get_world_size())
    return Task(base, course, known)


@lru_cache(maxsize=1)
def load_base(folder: str) -> Base:
    """The model of a folder in the precision of this machine. Raises InputError if the folder holds none."""
    reader, fingerprint = load_reader(folder), weights_fingerprint(Path(folder))
    dtype = torch.bfloat16 if precision() == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return Base(model, reader, fingerprint)


@lru_cache(maxsize=1)
def _packing_refusal(folder: str) -> str | None:
    return packing_refusal(load_base(folder).model)
