"""The sets that can be made, by name: from a recipe's section to worlds on disk."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.store import MANIFEST
from data.worlds import reversal_curse, reversals, syllogisms
from data.worlds.builder import World, save_set
from pipeline.recipe import Section

MAKERS: dict[str, Callable[..., World]] = {
    "reversals": reversals.make_world,
    "syllogisms": syllogisms.make_world,
    "reversal-curse": reversal_curse.make_world,
}


def make_set(name: str, section: Section, seed: int, folder: Path) -> None:
    """Write a set into `folder`, unless it is complete already (the manifest is written last)."""
    if (folder / MANIFEST).exists():
        return
    sizes = section.model_dump()
    make_world = partial(MAKERS[name], **{key: value for key, value in sizes.items() if key != "worlds"})
    save_set(folder, name, (make_world(seed, index) for index in range(sizes["worlds"])), seed=seed)
