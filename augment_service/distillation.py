"""Context distillation: what the model that wrote an inference expects in it, with all that stood before it.

Reads what `augment_service.augment` has written. Writes `lessons/` (shards of requests) and `teacher/` (shards of
distributions, by the pool's actors), sealed last. A shard that rests on disk is not made again.
"""

from collections.abc import Iterator
from pathlib import Path

from augment_service.augment import AUGMENTATIONS
from augment_service.methods import KEPT, augmentation_id, split_answer
from cluster.pool import Unit
from data.errors import InputError
from data.records import Augmentation, DistillationExample, Distribution, Generation, Prompt
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import ROWS_PER_SHARD, claim, is_sealed, read_refusals, read_shard, seal, write_shard

LESSONS, TEACHER = "lessons", "teacher"
MOST_TOP = 20  # tokens in a place; vLLM tells no more unless it is started otherwise


def is_taught(out: Path, *, num_top: int) -> bool:
    """Whether the distributions are complete. Raises InputError if the folder's are of another `num_top`."""
    if not 1 <= num_top <= MOST_TOP:
        raise InputError(f"{num_top} tokens in each place", where="--teacher-top", hint=f"choose 1 to {MOST_TOP}")
    (out / LESSONS).mkdir(parents=True, exist_ok=True)
    claim(out / LESSONS, fingerprint("lessons", num_top))
    return is_sealed(out / TEACHER)


def write_lessons(out: Path, book: PromptBook, *, num_top: int) -> list[Unit]:
    """Write a lesson for every inference that was kept; returns the units of work that ask the teacher."""
    units = []
    for path in sorted((out / AUGMENTATIONS).glob("*.arrow")):
        lessons = list(_lessons(out, path, book, num_top))
        world = read_shard(path, Augmentation)[0].corpus if lessons else ""
        for number, start in enumerate(range(0, len(lessons), ROWS_PER_SHARD)):
            rows = lessons[start : start + ROWS_PER_SHARD]
            shard = f"{path.stem}-{number:05d}.arrow"
            source, target = out / LESSONS / shard, out / TEACHER / shard
            if not source.exists():
                write_shard(source, DistillationExample, rows)
            name = f"{world} {number + 1}/{-(-len(lessons) // ROWS_PER_SHARD)}"
            units.append(
                Unit(name, "teach_shard", (str(source), str(target), name), affinity=path.stem, num_rows=len(rows))
            )
    if not units:
        raise InputError(
            "no inference was kept, so there is nothing that a teacher could be asked about",
            where=str(out / AUGMENTATIONS),
            hint="see the verdicts there; try other methods or more samples",
        )
    return units


def collect_lessons(out: Path, units: list[Unit]) -> int:
    """Seal the teacher's folder; returns how many lessons were refused (they rest in `teacher/refused/`).

    Raises InputError if all were.
    """
    refusals = [refusal for unit in units for refusal in read_refusals(Path(str(unit.args[1])))]
    if len(refusals) == sum(unit.num_rows for unit in units):
        raise InputError(refusals[0].what, where=f"inference {refusals[0].item_id}", hint=refusals[0].hint)
    seal(out / TEACHER, Distribution)
    return len(refusals)


def _lessons(out: Path, augmentations: Path, book: PromptBook, num_top: int) -> Iterator[DistillationExample]:
    """The kept inferences of a world, each with the context, the prompt and the way on which it was found."""
    kept = {row.augmentation_id: row for row in read_shard(augmentations, Augmentation) if row.verdict == KEPT}
    model = next(iter(kept.values())).model if kept else ""
    templates = {template.method: template for template in book.templates}
    for path in sorted((out / "prompts").glob(f"{augmentations.stem}-*.arrow")):
        written = {row.prompt_id: row for row in read_shard(out / "generations" / path.name, Generation)}
        for prompt in read_shard(path, Prompt):
            template = templates[prompt.method]
            row = kept.get(augmentation_id(prompt, template, model))
            if row is not None:
                way, _ = split_answer(written[prompt.prompt_id].text, template)
                before = f"{prompt.text} {way}".rstrip() if way else prompt.text
                yield DistillationExample(row.augmentation_id, prompt.context, before, row.text, num_top)
