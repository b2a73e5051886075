"""Full stops within sentences: after abbreviations, initials, ordinals and the numbers of lists.

Pure. The text before and after a full stop decides; its language need not be known.
"""

import re

from data.abbreviations import (
    AFTER_TIMES,
    BEFORE_NAMES,
    BEFORE_NUMBERS,
    BEFORE_ORDINALS,
    BEGINNERS,
    MONTHS,
    NEVER_LAST,
    PERHAPS_LAST,
    TIMES,
)

_LOOK_BACK = 40  # characters: a few words
_TOKEN = re.compile(r"[^\s\"“„«»‹›‘‚(\[{<>/=,;:!?…]*\Z")
_WORD_BEFORE = re.compile(r"(\S+)\s+\Z")
_ELISION = re.compile(r"\A[^\W\d_]{1,4}['’](?=[^\W\d_])")
_DOTTED = re.compile(r"[^\W\d_]{1,4}(?:[.-]{1,2}[^\W\d_]{1,4})*\.-?[^\W\d_]{1,4}\Z")
_SPACED = re.compile(r"(?<![\w.])(?:[^\W\d_]{1,2}\.[ \u00a0\u202f])+[^\W\d_]{1,2}\Z")
_ROMAN = re.compile(r"[IVXLC]+\Z")
_NEXT = re.compile(r"[\"'“„«»‹›‘‚(\[¿¡]*([^\W_]+\.?)")
_NUMBERED = re.compile(r"[IVXLC]+\b|[A-Z]\b|\d")
_ONE_LETTER_STOP = re.compile(r"[^\W\d_]\.")
_IS_BULLET = re.compile(r"[\W_]?\Z")
_FIRST_OF_LINE = re.compile(r"(?:\d{1,3}|\d{1,2}(?:\.\d{1,2}){1,4}|[a-z]|[ivx]{1,5}|[A-H])\Z")
_LAST_SCRIPT_OF_INITIALS = "\u10ff"  # a syllable or an ideograph by itself may be a sentence


def is_abbreviation(text: str, start: int, at: int, stop: int) -> bool:
    """Whether the sentence from `start` continues after the full stop at `at`; the next word is at `stop`."""
    tail = text[max(start, at - _LOOK_BACK) : at]
    found = _TOKEN.search(tail)
    token = found.group() if found else ""
    if not token:
        return False
    if "'" in token or "’" in token:
        token = _ELISION.sub("", token)
    ahead = text[stop : stop + _LOOK_BACK]
    before = tail[: len(tail) - len(token)].rstrip()
    if at - start == len(tail) and _is_list_number(token, before):
        return True
    if token[-1].isdigit():
        return _is_ordinal(token, before, ahead)
    return _is_short(token, tail, before, ahead)


def _is_list_number(token: str, before: str) -> bool:
    """Whether a sentence begins with this number or letter, as in "3. Fold it", "In this order: 1. Fold it"."""
    if _IS_BULLET.match(before):
        return bool(_FIRST_OF_LINE.match(token))
    return before[-1] in ":(" and token.isdigit() and len(token) <= 2


def _is_short(token: str, tail: str, before: str, ahead: str) -> bool:
    """Whether a word with a stop is an abbreviation within its sentence."""
    spaced = _SPACED.search(tail)
    whole = "".join(spaced.group().split()).lower() if spaced else ""
    name = token.lower() if len(token) > 1 or token.islower() else ""  # a capital by itself is an initial
    if not {whole, name}.isdisjoint(PERHAPS_LAST):
        return _may_go_on(ahead) or (not {whole, name}.isdisjoint(TIMES) and _next_word(ahead) in AFTER_TIMES)
    if whole in NEVER_LAST or (name in NEVER_LAST and not spaced):
        return True
    if name in BEFORE_NUMBERS or name.endswith("str"):
        return bool(_NUMBERED.match(ahead)) or (len(token) == 1 and _is_letter(token, before, ahead))
    if spaced or _DOTTED.fullmatch(token):
        return not (token[-1].isupper() and _next_word(ahead) in BEGINNERS and ahead[:1].isupper()) or _is_name(before)
    if _ROMAN.match(token) and len(token) > 1:
        return ahead[:1].islower() or _last_word(before) in BEFORE_ORDINALS
    return len(token) == 1 and token < _LAST_SCRIPT_OF_INITIALS and _is_letter(token, before, ahead)


def _is_letter(token: str, before: str, ahead: str) -> bool:
    """Whether one letter is an initial or an abbreviation: not in "vitamin C. It helps" or "in 1950 г. Он"."""
    if token == "I" and _next_word(ahead) in BEGINNERS:
        return False
    if not token.isalpha():
        return False
    if token.islower() and not _ONE_LETTER_STOP.match(ahead):
        is_unit = before[-1:].isdigit() or bool(_ROMAN.search(before[-1:]))
        return _may_go_on(ahead) if is_unit else _next_word(ahead) not in BEGINNERS
    if _next_word(ahead) in BEGINNERS and ahead[:1].isupper():
        return not _last_word(before).islower() or _last_word(before) in BEFORE_NAMES
    is_after_name = _is_name(before) or _last_word(before)[:1].isupper()
    return token != "I" or is_after_name or bool(_ONE_LETTER_STOP.match(ahead))


def _is_name(before: str) -> bool:
    """Whether a name or another initial ends here."""
    word = before.rsplit(None, 1)[-1] if before else ""
    return bool(re.fullmatch(r"[^\W\d_]\.", word))


def _is_ordinal(token: str, before: str, ahead: str) -> bool:
    """Whether a number with a stop is an ordinal: before a small letter or a month, or after "der", "am"."""
    if not token.isdigit() or len(token) > 2:
        return False
    words = before.lower().split()
    is_expected = bool(words) and words[-1] in BEFORE_ORDINALS and words[-2:-1] != ["i"]
    is_range = ahead[:1] in {"-", "–"} and ahead[1:2].isdigit()
    return is_range or ahead[:1].islower() or _next_word(ahead) in MONTHS or (is_expected and ahead[:1].isalpha())


def _may_go_on(ahead: str) -> bool:
    """Whether a small letter, a digit or a bracket follows."""
    first = ahead.lstrip("\"'“„«»‹›‘‚")[:1]
    return first.islower() or first.isdigit() or first in set("([–—-&")


def _next_word(ahead: str) -> str:
    found = _NEXT.match(ahead)
    return found[1].lower().rstrip(".") if found else ""


def _last_word(before: str) -> str:
    return before.rsplit(None, 1)[-1] if before else ""
