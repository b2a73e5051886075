"""The augmentation stage: documents in, prompts and generations as shards, augmentations out.

Reads a sealed `documents/` folder. Writes `prompts/`, `generations/` (a shard for each world, by the pool's actors) and
`augmentations/`, sealed last. A shard that rests on disk is not made again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from augment_service.methods import AugmentPlan, build_prompts, parse_generations
from cluster.pool import ActorPool, Unit
from data.errors import InputError
from data.records import Augmentation, Document, Generation, Prompt, ShardReceipt
from data.rendering import PromptBook
from data.seeds import fingerprint
from data.store import is_sealed, read_folder, read_shard, seal, write_shard

AUGMENTATIONS = "augmentations"


def is_augmented(out: Path) -> bool:
    """Whether the stage's output is complete."""
    return is_sealed(out / AUGMENTATIONS)


def group_by_world(documents: Sequence[Document]) -> dict[str, list[Document]]:
    """Documents of each world, in their order: a world is the corpus that its prompts see."""
    worlds: dict[str, list[Document]] = {}
    for document in documents:
        worlds.setdefault(document.world, []).append(document)
    if not worlds:
        raise InputError("there are no documents", where="documents", mend="name a folder with at least one row")
    return worlds


def write_prompts(documents: Path, out: Path, book: PromptBook, plan: AugmentPlan) -> list[Unit]:
    """Write one shard of prompts for each world; returns the units of work that turn them into generations."""
    units = []
    for world, members in group_by_world(list(read_folder(documents, Document))).items():
        name = f"{fingerprint(world)}.arrow"
        source, target = out / "prompts" / name, out / "generations" / name
        if not source.exists():
            write_shard(source, Prompt, build_prompts(members, book, plan))
        units.append(Unit(world, "generate_shard", (str(source), str(target), world), affinity=""))
    return units


def augment(
    documents: Path,
    out: Path,
    book: PromptBook,
    plan: AugmentPlan,
    *,
    model: str,
    pool: ActorPool,
    on_receipt: Callable[[ShardReceipt], None],
) -> None:
    """Let the pool's engines write down what follows from the documents; `model` is the weights' fingerprint."""
    units = write_prompts(documents, out, book, plan)
    pool.run(units, on_receipt)
    collect(documents, out, book, model=model)


def collect(documents: Path, out: Path, book: PromptBook, *, model: str) -> None:
    """Turn the generations of all worlds into the sealed folder of augmentations."""
    worlds = group_by_world(list(read_folder(documents, Document)))
    for world, members in worlds.items():
        name = f"{fingerprint(world)}.arrow"
        prompts = read_shard(out / "prompts" / name, Prompt)
        generations = read_shard(out / "generations" / name, Generation)
        rows = parse_generations(prompts, generations, members, book, model=model)
        write_shard(out / AUGMENTATIONS / name, Augmentation, rows)
    seal(out / AUGMENTATIONS, Augmentation)
