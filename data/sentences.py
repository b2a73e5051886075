"""Texts to sentences, without losing a character.

Pure. A sentence is the unit of local augmentation. Spans tile their text: each begins where the previous one ends, and
spaces after a sentence belong to it. The language of a text is not needed: marks are read by their script, full stops
by what stands before and after them.
"""

import re
from collections.abc import Iterator, Sequence

from data.abbreviations import (
    AFTER_TIMES,
    BEFORE_NAMES,
    BEFORE_NUMBERS,
    BEFORE_ORDINALS,
    BEGINNERS,
    MONTHS,
    NEVER_LAST,
    PERHAPS_LAST,
)
from data.structure import PROSE, complete, marks_of
from data.wrapping import soft_line_ends

Span = tuple[int, int]

_LINE_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
# Marks of scripts with spaces end a sentence before a space; ";" is the question mark of Greek.
_SPACED = r".!?…‼⁇⁈⁉‽;\u037e"
# The others do so anywhere: Unicode's Sentence_Terminal without those above, and the shad of Tibetan.
_ANYWHERE = (
    r"。｡！？．؟۔؝؞।॥።፧፨։།༎။၊។៕៖᠃᠉᥄᥅᪨-᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝-꩟꫰꫱꯫܀-܂߹࠷࠹࠽࠾꓿᙮᜵᜶"
)
_CLOSING = "\"'”’»›)\\]}」』】》〉›"
_OPENING_TOO = "“‘«‹"  # they close in some languages, and open in others
_MATCH = re.compile(
    rf"[{_SPACED}{_ANYWHERE}{_LINE_ENDS}](?:(?<=[{_LINE_ENDS}])"
    rf"|(?P<more>[{_SPACED}{_ANYWHERE}]*+)"
    rf"(?P<closing>(?:[{_CLOSING}{_OPENING_TOO}]|\[\d{{1,3}}(?:[,–-] ?\d{{1,3}})*\]|[¹²³⁰-⁹]|[ \u00a0\u202f]»(?![^\s,.;:)]))*+))"
    r"[\s\u200b]*+"
)
