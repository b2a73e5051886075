"""The sets that can be made, by name and lexicon: from a recipe's section to worlds on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.sets.builder import MadeWorld, save_set
from data.sets.process import full as process
from data.sets.process import small as small_process
from data.sets.reversal_curse import full as curse
from data.sets.reversal_curse import published
from data.sets.reversal_curse import small as reversal_curse
from data.sets.reversals import full as full_reversals
from data.sets.reversals import small as reversals
from data.sets.semantic import full as semantic
from data.sets.semantic import small as small_semantic
from data.sets.syllogisms import full as full_syllogisms
from data.sets.syllogisms import small as syllogisms
from data.store import MANIFEST
from pipeline.set_sections import SetSection

MAKERS: dict[tuple[str, str], Callable[..., MadeWorld]] = {
    ("reversals", "tiny"): reversals.make_world,
    ("syllogisms", "tiny"): syllogisms.make_world,
    ("reversal-curse", "tiny"): reversal_curse.make_world,
    ("semantic", "tiny"): small_semantic.make_world,
    ("process", "tiny"): small_process.make_world,
    ("reversals", "open"): full_reversals.make_world,
    ("syllogisms", "open"): full_syllogisms.make_world,
    ("reversal-curse", "open"): curse.make_world,
    ("semantic", "open"): semantic.make_world,
    ("process", "open"): process.make_world,
}
SETS = tuple(dict.fromkeys(name for name, _ in MAKERS))


def make_set(name: str, section: SetSection, seed: int, folder: Path) -> None:
    """Write a set into `folder`, unless it is complete already (the manifest is written last)."""
    if not (folder / MANIFEST).exists():
        save_set(folder, name, make_worlds(name, section, seed), seed=seed)


def make_worlds(name: str, section: SetSection, seed: int) -> Iterator[MadeWorld]:
    """The worlds of a set, one after another."""
    sizes: dict[str, Any] = section.sizes()
    if folder := sizes.pop("published", ""):
        yield published.read_world(Path(folder), seed=seed)
        return
    for index in range(section.worlds):
        yield MAKERS[name, section.lexicon](seed, index, **sizes)
