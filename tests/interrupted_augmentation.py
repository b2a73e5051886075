"""An augmentation by slow fake engines, for a process that is killed in the middle of it."""

import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa

from augment_service import worker
from augment_service.augment import plan_augmentation, seal_augmentations
from augment_service.contexts import ALL
from augment_service.engines.fake import FakeEngine
from augment_service.engines.protocol import EngineSpec
from augment_service.methods import AugmentPlan
from data.records import Generation, Prompt, Refusal
from data.rendering import ENGLISH, load_book

pa.array([""])  # pyarrow imports pandas at its first conversion: once, in the server that forks
METHODS = ("local", "strategies", "self_qa")
SECONDS = 0.004  # for each prompt


class SlowEngine(FakeEngine):
    """A fake engine that takes its time, so that a kill finds rows that are answered and rows that are not."""

    def _write(self, prompt: Prompt) -> Generation | Refusal:
        time.sleep(SECONDS)
        return super()._write(prompt)


def augment(documents: str, out: str, begun: Event | None = None) -> None:
    """Do what is left to be done of the augmentation in the folder `out`."""
    worker.WRITE_SECONDS = 0.02
    plan = AugmentPlan(METHODS, samples=2, temperature=0.7, seed=0, per_document=2)
    jobs = plan_augmentation(Path(documents), Path(out), load_book(None, ENGLISH), plan, model="m", context=ALL)
    actor = worker.EngineWorker(EngineSpec(kind="fake", model="none"))
    actor._engine = SlowEngine(EngineSpec(kind="fake", model="none"))
    if begun:
        begun.set()
    for unit in [unit for job in jobs for unit in job.units()]:
        actor.run_unit(*unit.args)  # type: ignore[arg-type]
    seal_augmentations(Path(documents), Path(out), jobs)
