"""A preview of an augmentation: a few documents are asked about, and prompts, answers and rows are shown.

What the model writes goes into the ledger as always, and as it is into `OUT/preview/`. Nothing is sealed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from augment_service.augment import Asked, AugmentTask
from augment_service.jobs import ShardedJob
from augment_service.ledger import Ledger, index_shards
from augment_service.provenance import AskedPrompt, count_methods
from data.records import Augmentation, Document, Generation, Prompt
from data.rendering import Template
from data.store import read_records, read_shard, read_table
from pipeline.augment_report import show_methods, show_preview
from pipeline.stages.augment import Augmentation as Planned
from pipeline.stages.augment_plan import num_rows, task_of
from pipeline.stages.resources import Setting, Work

RAW = "preview"
_SHOWN = 2  # prompts of each method, about different documents if there are several


def keeping_raw(planned: Planned) -> Planned:
    """The same work, of which what the model writes is kept as it is."""
    raw = str(planned.out / RAW)
    jobs, all_jobs = (
        tuple(
            replace(job, task=replace(job.task, raw=raw)) if isinstance(job.task, AugmentTask) else job for job in some
        )
        for some in (planned.jobs, planned.all_jobs)
    )
    return replace(planned, jobs=jobs, all_jobs=all_jobs)


def show(setting: Setting, planned: Planned, work: Work) -> None:
    """Print what was asked and written about the documents of a preview, which are all answered."""
    jobs, console = planned.all_jobs, setting.console
    ledger = Ledger.open(index_shards(planned.parts), Augmentation)
    raw = {row.prompt_id: row.text for row in _read_raw(planned.out / RAW)}
    shown: dict[str, list[tuple[AskedPrompt, str | None, Sequence[Augmentation]]]] = {}
    for job in planned.asking:
        for template, prompt in _some_prompts(job, ledger):
            rows = ledger.find(prompt.prompt_id)
            of_method = shown.setdefault(template.method, [])
            if rows and len(of_method) < _SHOWN:
                asked = AskedPrompt(prompt.before, prompt.context, prompt.text, prompt.after, is_exact=True)
                of_method.append((asked, raw.get(prompt.prompt_id), rows))
    show_preview(shown, console)
    console.print()
    shards = [target for job in jobs for target in job.targets if target.exists()]
    refused = sum(1 for job in jobs for _ in job.refusals())
    show_methods(count_methods(shards), console, work, refused)
    total = num_rows(list(dict.fromkeys(rows for job in jobs for rows in job.ranges)))
    setting.say("preview", f"of {total:,} documents; the answers are kept, and augmentations/ was not written")


def _read_raw(folder: Path) -> Iterator[Generation]:
    for shard in sorted(folder.glob("*.arrow")):
        yield from read_shard(shard, Generation)


def _some_prompts(job: ShardedJob, ledger: Ledger[Augmentation]) -> Iterator[tuple[Template, Prompt]]:
    """A prompt of each template from the middle of each document."""
    task = task_of(job)

    def propose(asked: Sequence[Asked]) -> Iterator[Augmentation]:
        for prompt, _ in asked:
            yield from ledger.find(prompt.prompt_id)

    for rows in job.ranges:
        table = read_table(Path(rows.shard)).slice(rows.start, rows.stop - rows.start)
        for document in read_records(table, Document):
            for template, asked in task.stages(document, propose):
                if asked:
                    yield template, asked[len(asked) // 2][0]
