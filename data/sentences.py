"""Texts to sentences and to chunks of a token budget, without losing a character.

Pure. A sentence is the unit of local augmentation, a chunk is what fits a model's window. Spans tile their text: each
begins where the previous one ends, and spaces after a sentence belong to it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

Span = tuple[int, int]
TokenCounter = Callable[[Sequence[str]], Sequence[int]]

_CLOSING = "\"'”’»›)\\]}」』）】》〉"
_LINE_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
# Marks of scripts with spaces end a sentence before a space; the others (。 ؟ । and similar) anywhere.
# The look-behind keeps a run of a million dots from being tried a million times.
_END = re.compile(
    rf"(?<![.!?…‼⁇⁈⁉])(?P<mark>[.!?…‼⁇⁈⁉]++)[{_CLOSING}]*+\s+"
    rf"|[。｡！？．؟۔।॥።፧။]++[{_CLOSING}]*+\s*"
    rf"|[{_LINE_ENDS}]\s*"
)
_LINE_END = re.compile(f"[{_LINE_ENDS}]")
_WORD = re.compile(r"[\u3000-\u9fff]|[^\s\u3000-\u9fff]+")
_LAST_TOKEN = re.compile(r"[\w.'’-]*\Z")
_LOOK_BACK = 24  # characters: abbreviations are shorter
_CHARACTERS_PER_TOKEN = 32  # a longer piece is cut before it is counted: counting takes memory

_TITLES = frozenset("mr mrs ms mx dr prof st rev hon gov sen rep gen col capt lt sgt sr sra srta dra mme mlle".split())
_BEFORE_NUMBERS = frozenset("no nr nos fig figs eq eqs p pp vol art sec ch chap tab s bd abb núm n°".split())
_INNER = frozenset("etc al inc ltd co corp jr ca approx cf vs vgl bzw usw ggf evtl a.m p.m".split())


def split_sentences(text: str, outline: Sequence[int] = ()) -> list[str]:
    """The sentences of a text in order, stripped, none empty; a line end always ends one."""
    return [sentence for start, end in sentence_spans(text, outline) if (sentence := text[start:end].strip())]


def sentence_spans(text: str, outline: Sequence[int] = ()) -> list[Span]:
    """The spans of the sentences, which tile the text: Latin, CJK, Arabic, Devanagari and similar scripts.

    Titles ("Dr."), initials, dotted abbreviations ("e.g.") and list numbers do not end a sentence.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if match.end() < len(text) and not (match["mark"] and _continues(text, match)):
            spans.append((start, match.end()))
            start = match.end()
    return [*spans, (start, len(text))] if text else []


def cumulate(sentences: Sequence[str]) -> Iterator[str]:
    """Each sentence, preceded by all earlier ones."""
    for end in range(1, len(sentences) + 1):
        yield " ".join(sentences[:end])


def count_words(text: str) -> int:
    """Words between spaces; each kana and ideograph is one by itself."""
    return sum(1 for _ in _WORD.finditer(text))


def word_counter(texts: Sequence[str]) -> list[int]:
    """`count_words` of each text: the token counter if no model is given."""
    return [count_words(text) for text in texts]


def chunk_spans(text: str, budget: int, count: TokenCounter = word_counter, outline: Sequence[int] = ()) -> list[Span]:
    """Spans of at most `budget` tokens, as long as sentence ends allow, which tile the text.

    A sentence over the budget is cut between words, a word over it between characters.
    """
    pieces = list(_fitting(text, sentence_spans(text, outline), budget, count))
    spans: list[Span] = []
    for group in _pack(pieces, budget):
        spans.extend(_verified(text, group, budget, count))
    return spans


def _continues(text: str, match: re.Match[str]) -> bool:
    """Whether the sentence continues after this mark: only a full stop or dots are ambiguous."""
    mark, following = match["mark"], text[match.end()]
    if _LINE_END.search(match.group()) or mark.strip(".…"):
        return False
    if mark != ".":
        return following.islower()  # dots in mid-sentence
    head = text[max(0, match.start() - _LOOK_BACK) : match.start()]
    found = _LAST_TOKEN.search(head)
    token = found.group() if found else ""
    name = token.lower()
    if token.isdigit():  # "3. Fold it" at the start of a line
        return not head[: -len(token)].rpartition("\n")[2].strip()
    if name in _INNER:
        return following.islower() or following.isdigit()
    initial = len(token) == 1 and token.isupper() and token != "I"
    return name in _TITLES or initial or "." in token.strip(".") or (name in _BEFORE_NUMBERS and following.isdigit())


def _fitting(text: str, spans: Sequence[Span], budget: int, count: TokenCounter) -> Iterator[tuple[Span, int]]:
    """The spans with their counts; one over the budget as its words, a word over it as its halves."""
    short = [span for span in spans if span[1] - span[0] <= budget * _CHARACTERS_PER_TOKEN]
    sizes = dict(zip(short, count([text[start:end] for start, end in short]), strict=True))
    for span in spans:
        size = sizes.get(span, budget + 1)
        if size <= budget or span[1] - span[0] == 1:
            yield span, size
        else:
            yield from _fitting(text, _smaller(text, *span), budget, count)


def _smaller(text: str, start: int, end: int) -> list[Span]:
    """A span as its words, or as two halves if it is a single word."""
    cuts = [match.start() for match in _WORD.finditer(text, start, end)][1:]
    bounds = [start, *(cuts or [(start + end) // 2]), end]
    return list(pairwise(bounds))


def _pack(pieces: Sequence[tuple[Span, int]], budget: int) -> Iterator[list[tuple[Span, int]]]:
    """Neighbours joined as long as the sum of their counts is within the budget."""
    group: list[tuple[Span, int]] = []
    total = 0
    for piece in pieces:
        if group and total + piece[1] > budget:
            yield group
            group, total = [], 0
        group.append(piece)
        total += piece[1]
    if group:
        yield group


def _verified(text: str, group: list[tuple[Span, int]], budget: int, count: TokenCounter) -> Iterator[Span]:
    """The group as one span; as two if the tokenizer counts more for the whole than for its parts."""
    start, end = group[0][0][0], group[-1][0][1]
    if len(group) == 1 or count([text[start:end]])[0] <= budget:
        yield start, end
    else:
        middle = len(group) // 2
        yield from _verified(text, group[:middle], budget, count)
        yield from _verified(text, group[middle:], budget, count)
