"""Nonsense words: pronounceable, of 4 or 5 letters, not English, unique within a world.

Reads `english.txt.gz`: the words of 4 and 5 letters of Webster's Second International (1934, in the public domain),
as Debian's package `miscfiles` ships it. Inflection is regular by design: no noun or verb ends in a sibilant, in "ed"
or in "ing", so that "s", "ed" and "ing" can be added and removed without ambiguity.
"""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from data.errors import InputError

_LIST = Path(__file__).with_name("english.txt.gz")
# Words younger than the list, or forms that it leaves out, in the shapes made here.
_LATER: frozenset[str] = frozenset(
    "barf beep began begot blog bleep blip blond brest clomp clonk crim crit crud cruft debug dept derek devin diff "
    "donut dork dweeb fart feet fidel flab fond frag futon gabon gavin gimpy gonk gunky halal hast held herp hosp karl "
    "kart kebab kevin kurt lego linux logon lunk manky milf mopy nerd nerdy nerf nook perl plonk porn robot sarin "
    "skank skimp skint smurf snarf snit spork sudan tampon tarot terf thunk trump twerk twit uzi veld vegan "
    "wank wimp wimpy wonk wonky wordy yurt zonk".split()
)

_ONSETS = (
    "b d f g h j k l m n p r t v w y z bl br cl cr dr dw fl fr gl gr kr pl pr sk sl sm sn sp st sw th tr tw vr".split()
)
_VOWELS = "a e i o u oo ee".split()
_ENDINGS = "b d f g k l m n p r t v".split()
_CLUSTERS = "ft lb ld lf lk lm lp lt mb mp nd nk nt pt rb rd rf rk rl rm rn rp rt sk sp st".split()
_SOFT = "lm ld rb nd rd mp lt nk".split()
_AVOIDED = ("uck", "uk", "unt", "agg", "igg", "ook", "oon", "fag", "jap", "homo", "spic")  # too close to insults


class WordMaker:
    """A supply of words from one random stream; no word comes twice, of whatever kind."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()
        self._shapes: set[str] = set()
        self._supplies: dict[str, Iterator[str]] = {}

    def noun(self) -> str:
        """A word like "grud", "troff" or "tovim"; its plural takes an s."""
        return self._next("noun")

    def verb(self) -> str:
        """A word like "flimp", which also makes "flimps", "flimped" and "flimping"."""
        return self._next("verb")

    def adjective(self) -> str:
        """A word like "rony"."""
        return self._next("adjective")

    def _next(self, kind: str) -> str:
        if kind not in self._supplies:
            pool = shapes(kind)
            self._supplies[kind] = self._supply(self._rng.sample(pool, len(pool)))
        try:
            return next(self._supplies[kind])
        except StopIteration:
            raise InputError(
                f"a corpus of this size needs more than the {len(shapes(kind))} {kind}s that can be generated",
                where="the sizes of the set",
                hint="ask for smaller and more worlds",
            ) from None

    def _supply(self, words: list[str]) -> Iterator[str]:
        """First words that differ from every taken one in two letters or more, then the others."""
        for spaced in (True, False):
            for word in words:
                if word not in self._taken and not (spaced and not self._shapes.isdisjoint(_near(word))):
                    self._taken.add(word)
                    self._shapes.update(_near(word))
                    yield word


@cache
def english() -> frozenset[str]:
    """Real words of 4 and 5 letters, in lower case."""
    return frozenset(gzip.decompress(_LIST.read_bytes()).decode().split()) | _LATER


@cache
def shapes(kind: str) -> tuple[str, ...]:
    """Every word of a kind ("noun", "verb" or "adjective") that can be generated, in alphabetical order."""
    closed = [onset + vowel + end for onset in _ONSETS for vowel in _VOWELS for end in _CLUSTERS]
    if kind == "verb":
        made = closed
    elif kind == "noun":
        short = [onset + vowel + end for onset in _ONSETS for vowel in _VOWELS for end in (*_ENDINGS, "ff")]
        firsts = [onset + vowel + middle for onset in "bdfgklmnprtv" for vowel in "aeiou" for middle in "blmnrv"]
        made = closed + short + [first + vowel + end for first in firsts for vowel in "aio" for end in "dgkmnp"]
    else:
        plain = [onset + vowel + end for onset in _ONSETS for vowel in "aeiou" for end in "bdgklmnprtv"]
        made = [stem + "y" for stem in (*plain, *(c + v + e for c in "bdfgklmnprt" for v in "aeiou" for e in _SOFT))]
    real = english()
    # A word whose plural or adjective is a real word would be read as that word.
    return tuple(
        sorted(
            word
            for word in set(made)
            if 4 <= len(word) <= 5
            and real.isdisjoint((word, word + "s"))
            and not word.endswith(("ed", "ing"))
            and not any(part in word for part in _AVOIDED)
        )
    )


def _near(word: str) -> list[str]:
    """The word with each of its letters masked: two words that share a masked form differ in at most one letter."""
    return [word[:index] + "_" + word[index + 1 :] for index in range(len(word))]
