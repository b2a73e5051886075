"""From a recipe's section to a generated set: the arguments of `data.sets.registry`."""

from collections.abc import Iterator
from pathlib import Path

from data.sets import registry
from data.sets.registry import SETS as MAKERS
from data.sets.world import World
from pipeline.set_sections import SetSection

__all__ = ["MAKERS", "SETS", "make_set", "make_worlds"]
SETS = tuple(dict.fromkeys(name for name, _ in MAKERS))


def make_set(name: str, section: SetSection, seed: int, folder: Path) -> bool:
    """Write a set into `folder`; False if it is complete already."""
    return registry.make_set(name, section.lexicon, section.worlds, section.sizes(), seed, folder)


def make_worlds(name: str, section: SetSection, seed: int) -> Iterator[World]:
    """The worlds of a set, one after another."""
    return registry.make_worlds(name, section.lexicon, section.worlds, section.sizes(), seed)
