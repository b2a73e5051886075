"""Texts to sentences, without losing a character.

Pure. A sentence is the unit of local augmentation. Spans tile their text: each begins where the previous one ends, and
spaces after a sentence belong to it. The language of a text need not be known: marks are read by their script, full
stops by what precedes and follows them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from data.clauses import divide_clauses
from data.graphemes import is_cut
from data.markdown import complete, without_quote_marks
from data.stops import is_abbreviation
from data.structure import PROSE
from data.wrapping import soft_line_ends, unwrap

Span = tuple[int, int]
TokenCounter = Callable[[Sequence[str]], Sequence[int]]
Piece = tuple[int, int, int]  # kind as in an outline, start, end

_LINE_ENDS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029"
# Marks of scripts with spaces end a sentence before a space; ";" is the question mark of Greek.
_SPACED = ".!?…‼⁇⁈⁉‽;\u037e"
# The others do so anywhere: Unicode's Sentence_Terminal without those above, and the shad of Tibetan.
_ANYWHERE = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0f0d\u0f0e\u104a\u104b\u1362"
    "\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f"
    "\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f\u2cf9-\u2cfb\u2e3c\u2e53\u2e54\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876"
    "\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e"
    "\uff1f\uff61"
)
_CLOSING = "\"'”’»›)\\]}」』】》〉"
_CLOSING_SOMETIMES = "“‘«‹"  # in some languages; they open in others
_NOTE = r"\[\d{1,3}(?:[,–-] ?\d{1,3})*\]|[¹²³⁰-⁹]"
_END = re.compile(
    rf"[{_SPACED}{_ANYWHERE}{_LINE_ENDS}](?:(?<=[{_LINE_ENDS}])|(?P<more>[{_SPACED}{_ANYWHERE}]*+)"
    rf"(?P<closing>(?:[{_CLOSING}{_CLOSING_SOMETIMES}]|{_NOTE}|[ \u00a0\u202f]»(?![^\s,.;:)]))*+))[\s\u200b]*+"
)
_LINE_END = re.compile(f"\\r\\n|[{_LINE_ENDS}]")
_MARK_ANYWHERE = re.compile(f"[{_ANYWHERE}]")
_QUOTES = "\"'”’»›“‘«‹」』"
_OPENING = "\"'“„«»‹›‘‚([¿¡"
_AHEAD = 4  # characters that may open the next sentence
_SPACES = re.compile(r"[\s\u200b]*")
_GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff][\"»”’')]*")
_SPACE = re.compile(r"\s")
_LETTER = re.compile(r"[^\W\d_]")
_DASH = re.compile(r"[-–—] ?")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_SAID = re.compile(r"と(?!て|き|も)|っ|[^。！？，“「]{0,6}[说說道问問喊叫答](?:道|着|著)?[。，：:！？]")
_BULLET = re.compile(r"[•‣◦▪●○∙]\s+(?=\S)")
WORD = re.compile(r"[\u3000-\u9fff]|[^\s\u3000-\u9fff]+")


def split_sentences(text: str, outline: Sequence[int] = ()) -> list[str]:
    """The sentences of a text in order, each on one line and without spaces around it, none empty.

    Headings and what is no prose are left out. What the outline does not cover is searched for Markdown. Marks of
    quotations (">") and bullets ("•") are left out too; the marks of Markdown's list items stay.
    """
    pieces = [text[start:end] for kind, start, end in pieces_of(text, outline) if kind == PROSE]
    return [sentence for piece in pieces if (sentence := _on_one_line(piece))]


def sentence_spans(text: str, outline: Sequence[int] = ()) -> list[Span]:
    """The spans of the sentences, of the headings and of the parts that are no prose: together they tile the text."""
    return [(start, end) for _, start, end in pieces_of(text, outline)]


def pieces_of(text: str, outline: Sequence[int] = ()) -> Iterator[Piece]:
    """`sentence_spans` with their kinds."""
    marks = complete(text, outline)
    soft = soft_line_ends(text, marks)
    at = 0
    for (kind, start, end), (_, following, _) in pairwise([*marks, (PROSE, len(text), len(text))]):
        yield from ((PROSE, *span) for span in _prose_spans(text, at, start, soft))
        spaces = _SPACES.match(text, end, following)
        at = spaces.end() if spaces else end
        yield kind, start, at
    yield from ((PROSE, *span) for span in _prose_spans(text, at, len(text), soft))


def cumulate(sentences: Sequence[str]) -> Iterator[str]:
    """Each sentence, preceded by all earlier ones."""
    for end in range(1, len(sentences) + 1):
        yield " ".join(sentences[:end])


def count_words(text: str) -> int:
    """Words between spaces; each kana and ideograph is one by itself."""
    return sum(1 for _ in WORD.finditer(text))


def word_counter(texts: Sequence[str]) -> list[int]:
    """`count_words` of each text: the token counter if no model is given."""
    return [count_words(text) for text in texts]


def _on_one_line(piece: str) -> str:
    piece = piece.strip().strip("\u200b").strip()
    if "\n" in piece or piece[:1] == ">":
        piece = unwrap(without_quote_marks(piece))
    bullet = _BULLET.match(piece)
    return piece[bullet.end() :] if bullet else piece


def _prose_spans(text: str, begin: int, end: int, soft: frozenset[int]) -> Iterator[Span]:
    """The sentences between two offsets, which are themselves ends of sentences."""
    start = begin
    for match in _END.finditer(text, begin, end):
        at = _end_of_sentence(text, start, match, soft)
        if start < at < end and is_cut(text, at):
            yield from divide_clauses(text, start, at)
            start = at
    if start < end:
        yield from divide_clauses(text, start, end)


def _end_of_sentence(text: str, start: int, match: re.Match[str], soft: frozenset[int]) -> int:
    """Where the next sentence begins if this mark ends the one from `start`, else 0."""
    at, stop = match.span()
    if match["more"] is None:
        return stop if _is_hard(text, at, stop, soft) else 0
    mark, behind = text[at : match.end("more")], match.end("closing")
    if ";" in mark or "\u037e" in mark:
        return stop if stop > behind and _GREEK.match(text, at - 1) and at else 0
    if _MARK_ANYWHERE.search(mark):
        return _end_anywhere(text, start, match)
    if stop == behind:
        return stop if mark[-1] in "!?" and _is_between_han(text, at, stop) else 0
    return stop if _is_hard(text, behind, stop, soft) or not _goes_on(text, start, match, mark) else 0


def _is_hard(text: str, start: int, end: int, soft: frozenset[int]) -> bool:
    """Whether there is a line end that is more than a space."""
    if end - start == 1 and text[start] == " ":
        return False
    return any(found.end() - 1 not in soft for found in _LINE_END.finditer(text, start, end))


def _goes_on(text: str, start: int, match: re.Match[str], mark: str) -> bool:
    """Whether the sentence continues after a mark with a space."""
    at, stop = match.span()
    is_dots = not mark.strip(".…") and (mark != "." or text[at - 2 : at] == ". ")
    if mark[-1] == "." and text[stop : stop + 1] == ".":
        return True  # ". . ."
    if is_dots and match["closing"][:1] == "]" and text[at - 1 : at] == "[":
        return True  # "[...]"
    first = text[stop : stop + _AHEAD].lstrip(_OPENING)[:1]
    dash = _DASH.match(text, stop)
    is_lower = first.islower() or (dash is not None and text[dash.end() : dash.end() + 1].islower())
    if is_lower and (match["closing"] or dash or is_dots):
        return True  # "Why?" she asked.
    if is_lower and _begins_with_capital(text, start, at):
        return True
    return mark == "." and not is_dots and is_abbreviation(text, start, at, stop)


def _begins_with_capital(text: str, start: int, end: int) -> bool:
    """Whether a sentence of several words has a capital at its beginning: its writer begins others with one too."""
    first = _LETTER.search(text, start, end)
    return first is not None and first.group().isupper() and bool(_SPACE.search(text, first.end(), end))


def _end_anywhere(text: str, start: int, match: re.Match[str]) -> int:
    """`_end_of_sentence` for the marks that need no space."""
    at, stop, closing = match.start(), match.end(), match["closing"]
    if text[at] == "．" and text[stop : stop + 1].isdigit():
        return 0
    if text.startswith("ល។", stop) or text[max(0, at - 2) : at] == "។ល":  # "etc." in Khmer
        return 0
    behind = match.end("closing")
    if stop == behind:
        # Without a space some quotation marks open the next sentence.
        for offset, quote in enumerate(closing, behind - len(closing)):
            if quote in _CLOSING_SOMETIMES or (quote == '"' and text.count('"', start, offset) % 2 == 0):
                return offset
        if closing and closing[-1] in "”」』" and _is_reported(text, start, at, behind):
            return 0
    return stop


def _is_reported(text: str, start: int, at: int, behind: int) -> bool:
    """Whether "he said" follows a quotation in Chinese or Japanese that nothing has introduced."""
    opened = max(text.rfind(quote, start, at) for quote in "“「『")
    return bool(_SAID.match(text, behind)) and not (opened > start and text[opened - 1] in "：:，,、")


def _is_between_han(text: str, at: int, stop: int) -> bool:
    return bool(at and _HAN.match(text, at - 1) and _HAN.match(text, stop))
