"""Texts to chunks of a token budget, without losing a character.

Pure. A chunk ends at a heading, a paragraph or a sentence, in this order; what is longer than the budget is cut between
lines (code and tables), words, or characters as readers see them. Spans tile their text.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from data.graphemes import is_cut, middle_cut
from data.sentences import WORD, Span, TokenCounter, pieces_of, word_counter
from data.structure import HEADINGS, VERBATIM

_CHARACTERS_PER_TOKEN = 32  # a longer piece is cut before it is counted: counting takes memory
_INSIDE, _SENTENCE, _PARAGRAPH, _HEADING = range(4)  # how good it is to end a chunk before a piece


class _Piece(NamedTuple):
    start: int
    end: int
    kind: int  # as in an outline
    rank: int  # how good it is to begin a chunk here
    size: int = 0  # tokens

    @property
    def is_heading(self) -> bool:
        return self.kind in HEADINGS


def chunk_spans(text: str, budget: int, count: TokenCounter = word_counter, outline: Sequence[int] = ()) -> list[Span]:
    """Spans of at most `budget` tokens which tile the text; only a single character may exceed the budget.

    A chunk that cannot take the next sentence ends before a heading, else between paragraphs, if it is half full there,
    else between sentences. No chunk ends with a heading if something follows it.
    """
    pieces = list(_fitting(text, list(_ranked(text, outline)), budget, count))
    spans: list[Span] = []
    for group in _pack(pieces, budget):
        spans.extend(_verified(text, group, budget, count))
    return spans


def _ranked(text: str, outline: Sequence[int]) -> Iterator[_Piece]:
    """The sentences, headings and parts that are no prose, with the rank of a cut before each."""
    before = VERBATIM
    for kind, start, end in pieces_of(text, outline):
        if kind in HEADINGS:
            rank = _HEADING
        elif VERBATIM in (kind, before) or "\n\n" in text[max(0, start - 4) : start].replace("\r", ""):
            rank = _PARAGRAPH
        else:
            rank = _SENTENCE
        yield _Piece(start, end, kind, rank)
        before = kind


def _fitting(text: str, pieces: Sequence[_Piece], budget: int, count: TokenCounter) -> Iterator[_Piece]:
    """The pieces with their sizes; one over the budget as smaller pieces."""
    short = [piece for piece in pieces if piece.end - piece.start <= budget * _CHARACTERS_PER_TOKEN]
    sizes = dict(zip(short, count([text[piece.start : piece.end] for piece in short]), strict=True))
    for piece in pieces:
        size = sizes.get(piece, budget + 1)
        if size <= budget or piece.end - piece.start == 1:
            yield piece._replace(size=size)
        else:
            yield from _fitting(text, _smaller(text, piece), budget, count)


def _smaller(text: str, piece: _Piece) -> list[_Piece]:
    """A piece as its lines, if it is no prose, as its words if it has several, or as two halves."""
    cuts: list[int] = []
    if piece.kind == VERBATIM:
        cuts = [at for at in _after_line_ends(text, piece.start, piece.end) if is_cut(text, at)]
    if not cuts:
        words = [match.start() for match in WORD.finditer(text, piece.start, piece.end)][1:]
        cuts = [at for at in words if is_cut(text, at)] or [middle_cut(text, piece.start, piece.end)]
    bounds = [piece.start, *cuts, piece.end]
    return [
        _Piece(start, end, piece.kind, _INSIDE if start > piece.start else piece.rank)
        for start, end in pairwise(bounds)
    ]


def _after_line_ends(text: str, start: int, end: int) -> Iterator[int]:
    at = text.find("\n", start, end - 1) + 1
    while at:
        yield at
        at = text.find("\n", at, end - 1) + 1


def _pack(pieces: Sequence[_Piece], budget: int) -> Iterator[list[_Piece]]:
    """Neighbours joined as long as the sum of their sizes is within the budget, and cut where it is best."""
    group: list[_Piece] = []
    total = 0
    for piece in pieces:
        while group and total + piece.size > budget:
            cut = _best_cut([*group, piece], budget)
            yield group[:cut]
            group = group[cut:]
            total = sum(part.size for part in group)
        group.append(piece)
        total += piece.size
    if group:
        yield group


def _best_cut(pieces: Sequence[_Piece], budget: int) -> int:
    """How many of the pieces make a chunk; the last one does not fit."""
    filled, half_full = 0, list[int]()
    for at, piece in enumerate(pieces):
        if at and not pieces[at - 1].is_heading and 2 * filled >= budget:
            half_full.append(at)
        filled += piece.size
    for rank in (_HEADING, _PARAGRAPH):
        if good := [at for at in half_full if pieces[at].rank == rank]:
            return good[-1]
    last = len(pieces) - 1
    # A heading goes with what follows it, unless nothing else is there.
    while last and pieces[last - 1].is_heading:
        last -= 1
    return last or len(pieces) - 1


def _verified(text: str, group: list[_Piece], budget: int, count: TokenCounter) -> Iterator[Span]:
    """The group as one span; as two if the tokenizer counts more for the whole than for its parts."""
    start, end = group[0].start, group[-1].end
    if len(group) == 1 or count([text[start:end]])[0] <= budget:
        yield start, end
    else:
        middle = len(group) // 2
        while middle > 1 and group[middle - 1].is_heading:
            middle -= 1
        yield from _verified(text, group[:middle], budget, count)
        yield from _verified(text, group[middle:], budget, count)
