"""The reversal of texts (Golovneva et al. 2024), word by word or with entities as they are, and the words of a text.

Pure. A word is a run of letters and digits; hyphens and apostrophes between them belong to it. In scripts without
spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character as readers see it is one. A mark of
punctuation is a unit of its own, and spaces stand around it where the text is reversed, as in the paper.
"""

from collections.abc import Iterator, Sequence

import regex

from data.sentences import Span, pieces_of
from data.structure import VERBATIM

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々〆"
_LETTER = rf"[\w--[{_UNSPACED}]]"
_NUMBER = r"[$€£¥]?\d+(?:[.,:/’]\d+)*(?:\s?[%‰°])?"
_WORD = rf"{_LETTER}+(?:['’\-]{_LETTER}+)*"
_WORDS = regex.compile(rf"(?V1)(?:{_NUMBER}(?!{_LETTER})|{_WORD}|(?=\S)\X)")
_IS_WORD = regex.compile(r"\w")
_IS_UNSPACED = regex.compile(rf"[{_UNSPACED}\u3000-\u303f\uff00-\uffef]")

_QUOTED = r"“[^”\n]{1,80}”|«[^»\n]{1,80}»|„[^“”\n]{1,80}[“”]|「[^」\n]{1,80}」|『[^』\n]{1,80}』|\"[^\"\n]{1,80}\""
# The bounds keep the time linear in texts without spaces.
_CODE = r"`[^`\n]{1,200}`|https?://[^\s]+(?<![.,;:!?)])|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"
_FORMULA = r"(?=\S{0,60}?(?:[_=^*\\{}<>|]|\w\(|\w/\w))[^\s\"“”«»]+(?<![.,;:!?])"
_CAPITAL = rf"(?:\p{{Lu}}\.(?=\s\p{{Lu}})|\p{{Lu}}{_LETTER}*(?:['’\-]{_LETTER}+)*)"
_PARTICLE = r"(?:(?:van|von|der|den|de|da|do|dos|di|du|del|della|la|le|al|el|bin|ibn|ben|of|zu|y|ten|ter)\s){1,2}"
_NAME = rf"{_CAPITAL}(?:[ \u00a0](?:{_PARTICLE})?{_CAPITAL})*(?:[ \u00a0]\d+(?:,[ ]\d{{4}}\b)?)?"
_DATE = r"\d{1,2}\.?[ \u00a0]\p{Lu}\p{Ll}+[ \u00a0]\d{4}\b"
_KATAKANA = r"[\p{Katakana}ー・]{2,}"
_ENTITIES = regex.compile(
    rf"(?V1)(?:{_QUOTED}|{_CODE}|{_FORMULA}|{_DATE}|{_NAME}|{_KATAKANA}|{_NUMBER}(?!{_LETTER})|{_WORD}|(?=\S)\X)"
)
# Words that begin a sentence with a capital and are no part of the name that follows.
_FUNCTION_WORDS = frozenset(
    "the a an this that these those in on at of for from to by with and but or as if when while after before "
    "since it he she they we you i his her its their our my your who what where why how not no there here both "
    "all some many most der die das dem den ein eine im am auf bei von zu mit und aber oder als wenn nach vor "
    "seit er sie es wir ihr ich le les un une des dans en sur de du avec et mais ou comme quand après avant il "
    "elle ils elles nous vous je ce cette el los las una unos con y pero o como cuando él ella lo gli nel nella e "
    "ma os um uma na com het een op met".split()
)


def reverse_words(text: str) -> str:
    """The words and marks of a text in reverse order."""
    return _reversed(text, [match.span() for match in _WORDS.finditer(text)])


def reverse_entities(text: str, outline: Sequence[int] = ()) -> str:
    """As `reverse_words`, but what belongs together stays as it is.

    That are names (words with capitals in a row, and numbers with them), dates, numbers, quotations, and code: in the
    text, and what the outline or Markdown marks as no prose.
    """
    return _reversed(text, list(_entities(text, outline)))


def word_spans(text: str) -> list[Span]:
    """Where the words of a text are, without its marks of punctuation."""
    return [match.span() for match in _WORDS.finditer(text) if _IS_WORD.search(match.group())]


def _entities(text: str, outline: Sequence[int]) -> Iterator[Span]:
    for kind, start, end in pieces_of(text, outline):
        if kind == VERBATIM:
            body = text[start:end]
            yield start + len(body) - len(body.lstrip()), start + len(body.rstrip())
            continue
        at = start
        first = _WORDS.search(text, start, end)
        if first and first.group().lower() in _FUNCTION_WORDS and first.start() == _skip_spaces(text, start, end):
            yield first.span()
            at = first.end()
        yield from (match.span() for match in _ENTITIES.finditer(text, at, end))


def _skip_spaces(text: str, start: int, end: int) -> int:
    return next((at for at in range(start, end) if not text[at].isspace()), end)


def _reversed(text: str, spans: Sequence[Span]) -> str:
    """The parts of a text in reverse order, with the line ends between them."""
    found: list[str] = []
    following = 0
    for start, end in reversed([(start, end) for start, end in spans if start < end]):
        if found:
            found.append(_gap(text[end:following], text[end - 1], text[following]))
        found.append(text[start:end])
        following = start
    return "".join(found)


def _gap(between: str, before: str, after: str) -> str:
    """What stands between two parts: a line end, nothing inside scripts without spaces, else a space."""
    if "\n" in between:
        return "\n\n" if between.count("\n") > 1 else "\n"
    is_dense = not between and _IS_UNSPACED.match(before) and _IS_UNSPACED.match(after)
    return "" if is_dense else " "
