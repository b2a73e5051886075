"""The augmentation stage: documents in, prompts and generations as shards, augmentations out.

Reads a sealed `documents/` folder. Writes `prompts/`, `generations/` (shards of a world's prompts, by the pool's
actors) and `augmentations/`, sealed last. A shard that rests on disk is not made again.
"""

from collections.abc import Sequence
from pathlib import Path

from augment_service.methods import AugmentPlan, build_prompts, parse_generations
from cluster.pool import Unit
from data.errors import InputError
from data.records import Augmentation, Document, Generation, Prompt
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import ROWS_PER_SHARD, is_sealed, read_folder, read_refusals, read_shard, seal, write_shard

AUGMENTATIONS = "augmentations"


def is_augmented(out: Path) -> bool:
    """Whether the stage's output is complete."""
    return is_sealed(out / AUGMENTATIONS)


def group_by_world(documents: Sequence[Document]) -> dict[str, list[Document]]:
    """Documents of each world, in their order: a world is the corpus that its prompts see."""
    worlds: dict[str, list[Document]] = {}
    for document in documents:
        worlds.setdefault(document.corpus, []).append(document)
    if not worlds:
        raise InputError("there are no documents", where="documents", hint="name a folder with at least one row")
    return worlds


def write_prompts(documents: Path, out: Path, book: PromptBook, plan: AugmentPlan) -> list[Unit]:
    """Write the prompts of each world as shards; returns the units of work that turn them into generations.

    Shards of a world share their context, so they prefer the same engine.
    """
    units = []
    for world, members in group_by_world(list(read_folder(documents, Document))).items():
        prompts = build_prompts(members, book, plan)
        for number, start in enumerate(range(0, len(prompts), ROWS_PER_SHARD)):
            rows = prompts[start : start + ROWS_PER_SHARD]
            shard = f"{fingerprint(world)}-{number:05d}.arrow"
            source, target = out / "prompts" / shard, out / "generations" / shard
            if not source.exists():
                write_shard(source, Prompt, rows)
            name = f"{world} {number + 1}/{-(-len(prompts) // ROWS_PER_SHARD)}"
            args = (str(source), str(target), name)
            units.append(Unit(name, "generate_shard", args, affinity=fingerprint(world), num_rows=len(rows)))
    return units


def collect(documents: Path, out: Path, book: PromptBook, units: Sequence[Unit], *, model: str) -> int:
    """Turn what the units have made into the sealed folder of augmentations; `model` is the weights' fingerprint.

    Returns how many prompts were refused (they rest in `generations/refused/`). Raises InputError if all were.
    """
    worlds = group_by_world(list(read_folder(documents, Document)))
    shards: dict[str, list[Path]] = {}
    for unit in units:
        shards.setdefault(unit.affinity, []).append(Path(str(unit.args[1])))
    refusals = [refusal for paths in shards.values() for path in paths for refusal in read_refusals(path)]
    if refusals and len(refusals) == sum(unit.num_rows for unit in units):
        raise InputError(refusals[0].what, where=f"prompt {refusals[0].item_id}", hint=refusals[0].hint)
    for world, members in worlds.items():
        name = fingerprint(world)
        prompts = [row for path in shards[name] for row in read_shard(out / "prompts" / path.name, Prompt)]
        generations = [row for path in shards[name] for row in read_shard(path, Generation)]
        rows = parse_generations(prompts, generations, members, book, model=model)
        write_shard(out / AUGMENTATIONS / f"{name}.arrow", Augmentation, rows)
    seal(out / AUGMENTATIONS, Augmentation)
    return len(refusals)
