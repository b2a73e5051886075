"""Running heads, footers and page numbers, which belong to no page's text. Pure.

The outermost rows of pages are compared with those of other pages, digits and roman numerals aside; rows are taken from
the outside only, so that a line of the text is never lost between two others.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from data.corpora.pdf.layout import Run, joined, make_rows

_OUTER_ROWS = 4
_MIN_PAGES = 3
_FEW_PAGES = 4
_SAME_PLACE = 3.0  # points
_NUMBERED_SHARE = 0.1
_USUAL_SHARE = 0.3  # of the pages have something at one place
_ROMAN = re.compile(r"\b[ivxlc]{1,7}\b", re.I)
_NUMBER = re.compile(r"[0-9]{1,9}")
# A page number and nothing else; "Page 3 of 10", "- 3 -", "3/10", "Seite 3 von 10".
_BARE_NUMBER = re.compile(r"[-–—|\[(\s]*(\d{1,5}|[ivxlc]{1,7})[-–—|\])\s.]*", re.I)
_COUNTED = re.compile(
    r"\W*(page|pages?:|p\.|pg\.?|seite|página|pagina|strona|стр\.?|страница|sivu|sida|side|oldal|strana|σελίδα)?\W*"
    r"\d{1,5}\s*(of|/|von|de|sur|di|z|из|van|av|af)\s*\d{1,5}\W*",
    re.I,
)
_NAMED = re.compile(
    r"\W*(page|p\.|pg\.?|seite|página|pagina|strona|стр\.?|страница|sivu|sida|side|oldal|strana)\W*\d{1,5}\W*", re.I
)
_WIDE_GAP = 3.0
_END_NUMBERS = re.compile(r"^\d{1,5}(?=\s)|(?<=\s)\d{1,5}$")
_GAP = 1.5  # of the font's size: what separates a page number from the text


class _Place(NamedTuple):
    """A row near an edge of a page, the `depth`-th from it."""

    page: int
    depth: int
    text: str
    key: str
    y: float  # from the edge: pages differ in size
    size: float
    gap: float  # to the next row inwards, in sizes


@dataclass
class _Edge:
    """The outer rows of all pages at the top or at the bottom, with the runs of each."""

    places: list[list[_Place]]  # by page, the outermost first
    runs: list[list[list[Run]]]


def without_furniture(pages: Sequence[Sequence[Run]], heights: Sequence[float]) -> list[list[Run]]:
    """The runs of each page that belong to the text. `heights` are those of the pages, in points.

    Of a page of nothing else, only the outermost rows go.
    """
    rows = [make_rows(page) for page in pages]
    outermost, dropped = [set[int]() for _ in pages], [set[int]() for _ in pages]
    for edge in (_edge(rows, heights, from_top) for from_top in (True, False)):
        for page, depth in _furniture(edge):
            runs = {id(run) for run in edge.runs[page][depth]}
            dropped[page] |= runs
            if not depth:
                outermost[page] |= runs
    kept = list[list[Run]]()
    for page_runs, gone, outer in zip(pages, dropped, outermost, strict=True):
        less = gone if len(gone) < len(page_runs) else outer
        kept.append([run for run in page_runs if id(run) not in less])
    return kept


def _edge(rows: Sequence[list[list[Run]]], heights: Sequence[float], from_top: bool) -> _Edge:
    places, runs = list[list[_Place]](), list[list[list[Run]]]()
    for page, height in enumerate(heights):
        outer = rows[page] if from_top else rows[page][::-1]
        found = list[_Place]()
        for depth, row in enumerate(outer[:_OUTER_ROWS]):
            text = " ".join(joined(run.words) for run in row)
            size, y = max(run.size for run in row), row[0].y
            inner = outer[depth + 1][0].y if depth + 1 < len(outer) else float("inf")
            distance = y if from_top else height - y
            found.append(_Place(page, depth, text, _key(text), distance, size, abs(inner - y) / size))
        places.append(found)
        runs.append(outer[:_OUTER_ROWS])
    return _Edge(places, runs)


def _key(text: str) -> str:
    """What a running head has in common on all its pages."""
    return _NUMBER.sub("#", _ROMAN.sub("#", " ".join(text.casefold().split())))


def _furniture(edge: _Edge) -> Iterator[tuple[int, int]]:
    """Page and depth of the rows that are no text."""
    found = _repeated(edge) | _numbered(edge) | _with_page_number(edge)
    usual = Counter(_slot(place) for place in found if not place.depth)
    often = max(_MIN_PAGES, _USUAL_SHARE * len(edge.places))
    for places in edge.places:
        droppable = list[_Place]()
        for place in places:
            is_usual = not place.depth and usual[_slot(place)] >= often and place.gap > _GAP
            if not (place in found or is_usual or _says_page(place)):
                break
            droppable.append(place)
        yield from ((place.page, place.depth) for place in _set_apart(droppable))


def _says_page(place: _Place) -> bool:
    return bool(_COUNTED.fullmatch(place.text) or (_NAMED.fullmatch(place.text) and place.gap > _GAP))


def _set_apart(places: list[_Place]) -> list[_Place]:
    """The outer ones of repeated rows, up to the white space between them and the text.

    The first lines of a text may repeat too, in a form or a letter.
    """
    widest = max((place.gap for place in places), default=0.0)
    for number, place in enumerate(places, 1):
        if place.gap >= max(_GAP, min(widest, _WIDE_GAP)):
            return places[:number]
    return []


def _slot(place: _Place) -> tuple[int, int]:
    """The approximate place and size of a row."""
    return round(place.y / _SAME_PLACE), round(2 * place.size)


def _repeated(edge: _Edge) -> set[_Place]:
    """Rows whose words stand at one place of three pages or more that follow each other, or every other one.

    In a short document two pages are enough for an outermost row that white space sets apart.
    """
    by_key = defaultdict[str, list[_Place]](list)
    for places in edge.places:
        for place in places:
            if any(character.isalpha() for character in place.key):
                by_key[place.key].append(place)
    found = set[_Place]()
    for same in by_key.values():
        same.sort(key=lambda place: place.y)
        for group in _near(same):
            for stretch in _stretches(group):
                if not _is_steady(stretch):
                    continue
                if len(stretch) >= _MIN_PAGES:
                    found |= set(stretch)
                elif len(stretch) == 2 and len(edge.places) <= _FEW_PAGES:
                    found |= {place for place in stretch if not place.depth and place.gap > _GAP}
    return found


def _is_steady(stretch: list[_Place]) -> bool:
    """Whether the numbers of a row stay or go with the pages, mostly: those of letters and forms do not."""
    steady = 0
    for a, b in pairwise(stretch):
        before, after = _NUMBER.findall(a.text), _NUMBER.findall(b.text)
        steps = {int(y) - int(x) for x, y in zip(before, after, strict=False)}
        steady += len(before) == len(after) and steps <= {0, b.page - a.page}
    return 2 * steady >= len(stretch) - 1


def _stretches(group: list[_Place]) -> Iterator[list[_Place]]:
    """The places of one group whose pages follow each other, or every other one."""
    stretch: list[_Place] = []
    for place in sorted(group, key=lambda place: place.page):
        if stretch and place.page - stretch[-1].page > 2:
            yield stretch
            stretch = []
        if not stretch or place.page > stretch[-1].page:
            stretch.append(place)
    if stretch:
        yield stretch


def _near(places: Sequence[_Place]) -> Iterator[list[_Place]]:
    """Sorted places in groups that stand at one distance from the edge."""
    group: list[_Place] = []
    for place in places:
        if group and place.y - group[-1].y > _SAME_PLACE:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _numbered(edge: _Edge) -> set[_Place]:
    """Bare numbers that count the pages: on at least two of them, number and page differ by the same."""
    by_shift = defaultdict[tuple[bool, int], list[_Place]](list)
    for places in edge.places:
        for place in places:
            if match := _BARE_NUMBER.fullmatch(place.text):
                arabic = match[1].isdigit()
                value = int(match[1]) if arabic else _roman(match[1].lower())
                by_shift[arabic, value - place.page].append(place)
    return {place for same in by_shift.values() if len({place.page for place in same}) > 1 for place in same}


def _with_page_number(edge: _Edge) -> set[_Place]:
    """Outermost rows that begin or end with their page's number, as those of many pages do; notes may count as well."""
    by_shift = defaultdict[int, list[_Place]](list)
    for places in edge.places:
        for place in places[:1]:
            for number in _END_NUMBERS.findall(place.text):
                if place.gap > _GAP and not place.text.endswith((".", ",", ";", ":")):
                    by_shift[int(number) - place.page].append(place)
    often = max(_MIN_PAGES, _NUMBERED_SHARE * len(edge.places))
    return {place for same in by_shift.values() if len(same) >= often for place in same}


def _roman(numeral: str) -> int:
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))
