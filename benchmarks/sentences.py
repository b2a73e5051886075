"""Sentence splitters on texts whose boundaries are marked by hand (`tests/sentences.txt`): F1 by language, and speed.

The other splitters are given the language of each text; ours is not. Splitters that are not installed are skipped.
"""

import argparse
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from data.sentences import sentence_spans

GOLD = Path(__file__).resolve().parent.parent / "tests" / "sentences.txt"
PARTS = ("tuned", "held back")
EUROPEAN = frozenset("cs de el en es fr it pl ru tr".split())
BOUNDARY, LINE_END = "‖", "⏎"
_SPACES = re.compile(r"[\s\u200b]*")
_SECONDS = 2.0  # of each speed measurement

Splitter = Callable[[str, str], Sequence[int]]  # text, language -> the offsets at which sentences begin


class GoldText(NamedTuple):
    """A text with the offsets at which its sentences begin, the first (0) left out."""

    part: str
    language: str
    text: str
    starts: frozenset[int]


class Counts(NamedTuple):
    """Boundaries of one language: found and right, found, and marked."""

    right: int
    found: int
    marked: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.found + self.marked) if self.found + self.marked else 1.0


def read_gold(path: Path = GOLD) -> Iterator[GoldText]:
    """The texts of the gold file."""
    part = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            part = line.strip("[]")
        elif "\t" in line:
            language, _, marked = line.partition("\t")
            pieces = marked.replace(LINE_END, "\n").split(BOUNDARY)
            starts = [sum(map(len, pieces[:number])) for number in range(1, len(pieces))]
            yield GoldText(part, language, "".join(pieces), frozenset(starts))


def count_right(splitter: Splitter, texts: Sequence[GoldText]) -> dict[str, Counts]:
    """The counts of a splitter by language. A sentence begins at its first character that is no space."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for gold in texts:
        begins = (_begin(gold.text, start) for start in splitter(gold.text, gold.language))
        found = {start for start in begins if 0 < start < len(gold.text)}
        sums[gold.language].update(right=len(found & gold.starts), found=len(found), marked=len(gold.starts))
    return {language: Counts(sum_["right"], sum_["found"], sum_["marked"]) for language, sum_ in sums.items()}


def pooled(counts: Mapping[str, Counts], languages: frozenset[str] | None = None) -> Counts:
    """The counts of several languages (all, if none are given) together."""
    chosen = [value for language, value in counts.items() if languages is None or language in languages]
    return Counts(*map(sum, zip(*chosen, strict=True)))


def _begin(text: str, start: int) -> int:
    found = _SPACES.match(text, start)
    return found.end() if found else start


def _starts_of(text: str, sentences: Sequence[str]) -> list[int]:
    """Offsets of sentences that a splitter gives as strings, in order; one that it has changed is passed over."""
    starts, at = list[int](), 0
    for sentence in sentences:
        if (start := text.find(sentence.strip(), at)) >= 0:
            starts.append(start)
            at = start + len(sentence.strip())
    return starts


def ours(text: str, language: str = "") -> list[int]:
    """The splitter of this repository, which is not told the language."""
    return [start for start, _ in sentence_spans(text)]


def _syntok() -> Splitter:
    segmenter = import_module("syntok.segmenter")
    return lambda text, language: [
        sentence[0].offset for paragraph in segmenter.analyze(text) for sentence in paragraph if sentence
    ]


def _pysbd_like(package: str) -> Splitter:
    module = import_module(package)
    made: dict[str, Any] = {}

    def split(text: str, language: str) -> list[int]:
        if language not in made:
            try:
                made[language] = module.Segmenter(language=language, clean=False, char_span=False)
            except (ValueError, KeyError):
                made[language] = module.Segmenter(language="en", clean=False, char_span=False)
        return _starts_of(text, made[language].segment(text))

    return split


def _nupunkt() -> Splitter:
    nupunkt = import_module("nupunkt")
    return lambda text, language: _starts_of(text, nupunkt.sent_tokenize(text))


def _blingfire() -> Splitter:
    blingfire = import_module("blingfire")

    def split(text: str, language: str) -> list[int]:
        return [start for start, _ in blingfire.text_to_sentences_and_offsets(text)[1]]

    return split


def _sentencex() -> Splitter:
    sentencex = import_module("sentencex")
    return lambda text, language: _starts_of(text, list(sentencex.segment(language, text)))


def _icu() -> Splitter:
    icu = import_module("icu")

    def split(text: str, language: str) -> list[int]:
        breaks = icu.BreakIterator.createSentenceInstance(icu.Locale(f"{language}@ss=standard"))
        utf16 = icu.UnicodeString(text)
        breaks.setText(utf16)
        return [0, *(len(str(utf16[:end])) for end in breaks)]

    return split


PEERS: dict[str, Callable[[], Splitter]] = {
    "syntok": _syntok,
    "pysbd": lambda: _pysbd_like("pysbd"),
    "sentencesplit": lambda: _pysbd_like("sentencesplit"),
    "nupunkt": _nupunkt,
    "blingfire": _blingfire,
    "sentencex": _sentencex,
    "ICU": _icu,
}


def installed() -> dict[str, Splitter]:
    """Ours and the peers that are installed."""
    found: dict[str, Splitter] = {"ours": ours}
    for name, make in PEERS.items():
        try:
            found[name] = make()
        except ImportError:
            continue
    return found


def megabytes_per_second(splitter: Splitter, texts: Sequence[GoldText]) -> float:
    """Speed on English, German and Russian texts of a few kB."""
    joined = [
        ("\n\n".join(gold.text for gold in texts if gold.language == language), language)
        for language in ("en", "de", "ru")
    ]
    size = sum(len(text.encode()) for text, _ in joined)
    begun, rounds = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < _SECONDS or not rounds:
        for text, language in joined:
            splitter(text, language)
        rounds += 1
    return size * rounds / passed / 1e6


def measure() -> dict[str, dict[str, Any]]:
    """By splitter: F1 by part and language, for European languages and for all, and speed."""
    gold, report = list(read_gold()), dict[str, dict[str, Any]]()
    for name, splitter in installed().items():
        report[name] = {}
        for part in PARTS:
            counts = count_right(splitter, [text for text in gold if text.part == part])
            report[name][part] = {
                **{language: value.f1 for language, value in sorted(counts.items())},
                "European": pooled(counts, EUROPEAN).f1,
                "all": pooled(counts).f1,
            }
        report[name]["MB/s"] = megabytes_per_second(splitter, gold)
    return report


def main() -> None:
    """Print the table; write it with --json FILE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    report = measure()
    table = Table("part", "language", *report)
    for part in PARTS:
        for language in report["ours"][part]:
            table.add_row(part, language, *(f"{values[part][language]:.3f}" for values in report.values()))
    table.add_row("", "MB/s", *(f"{values['MB/s']:.2f}" for values in report.values()))
    Console(width=160).print(table)
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
