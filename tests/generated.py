"""What tests of generated sets share: sets by name and flags, as `entail data make` reads them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.sets import registry
from data.sets.world import World
from pipeline.cli import build_parser
from pipeline.data_section import SETS, SetSection
from pipeline.recipe import parse_section

MAKERS = registry.SETS


def default_section(name: str, words: Sequence[str]) -> SetSection:
    """The section of one set at the paper's full size; `words` are flags of `data make NAME`."""
    flags = build_parser().parse_args(["data", "make", name, "--out", "unused", *words])
    overrides = {("set", "lexicon"): ("--lexicon", "open"), **flags.overrides}
    return parse_section(SETS[name], "set", overrides, command="data make")


def make_worlds(name: str, section: SetSection, seed: int) -> Iterator[World]:
    """The worlds of a set."""
    return registry.make_worlds(name, section.lexicon, section.worlds, section.sizes(), seed)


def make_set(name: str, section: SetSection, seed: int, folder: Path) -> bool:
    """Write a set."""
    return registry.make_set(name, section.lexicon, section.worlds, section.sizes(), seed, folder)
