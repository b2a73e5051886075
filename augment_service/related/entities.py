"""Entities of a text, found without a model: names, quoted terms, identifiers, dates and quantities.

Pure. All but repeated strings are searched for in prose only: titles are capitalised throughout, and code is full of
identifiers. What is a name is decided by how many documents write its words with a capital where no sentence begins,
which the caller has counted.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from augment_service.related.words import SEPARATORS, UNSPACED, fold, is_mark, key_of, terms_of
from data.markdown import complete
from data.structure import PROSE

NAME, TERM, IDENTIFIER, QUANTITY, RARE = range(5)  # kinds
LONGEST = 60  # characters of an entity
_MOST_WORDS = 5  # of a name or a quoted term: longer runs of capitals are titles, longer quotations are sentences
_FUNCTION_WORD = 5  # times as often without a capital: such a word begins a sentence, not a name

CaseOf = Callable[[str], tuple[int, int]]  # a folded word to its documents without, and with a capital in a sentence


def _upper() -> str:
    """A class of regular expressions: capitals."""
    codes = [code for code in range(0x10000) if unicodedata.category(chr(code)) in ("Lu", "Lt")]
    return "".join(map(chr, codes))


_U, _W = _upper(), rf"[^{SEPARATORS}{UNSPACED}]"
_CAPITALISED = rf"(?:[{_U}]\. ?){{0,3}}[{_U}](?:{_W}|['’-](?={_W}))*"
_NUMBER = r"\d+(?:[.-]\d+)*(?![\w%])"  # "Apollo 11", "Python 3.13"
_JOINING = "of|the|de|da|do|dos|di|del|della|des|du|la|le|van|von|der|den|af|av|al|el|bin|ibn|y|e|&"
# Words that refer to a part of a text, with a number or without.
_LABELS = frozenset(
    "abbildung abschnitt anhang annexe anexo appendix apéndice article artikel artículo band beispiel bijlage capitolo "
    "capítulo chapitre chapter column edition ejemplo eq equation example exemple exercise fig figura figure footnote "
    "hoofdstuk item kapitel listing note page part parte partie question rule section seite sezione step "
    "sección tabell tabella tabelle tabla table tableau task teil theorem verse version vol volume глава рис рисунок "
    "таблица часть".split()
)
_JOINING_WORDS = frozenset(_JOINING.split("|"))
_QUOTED = (
    r"`[^`\n]{2,60}`|\"[^\"\n]{2,60}\"|“[^”\n]{2,60}”|«[^»\n]{2,60}»|„[^“”\n]{2,60}[“”]|「[^」\n]{2,30}」|『[^』\n]{2,30}』"
    r"|《[^》\n]{2,30}》"
)
_UNITS = (
    "%|‰|°C|°F|°|[kcmµn]?m|[kmµ]?g|[kmc]?l|[mµn]?s|min|h|[kMGT]?Hz|[kMG]?W|[km]?V|m?A|[kM]?J|[kMG]?eV|[hkMG]?Pa|mol|"
    "[kKMGT]i?B|[kKMG]?bits?|[Bb]ytes?|px|dpi|rpm|mph|km/h|m/s|ft|lbs?|oz|[Mm]illions?|[Bb]illions?|[Mm]illion(?:en|es)|"
    "milliards?|EUR|USD|GBP|€|\\$|£"
)
_QUANTITY = (
    rf"\d{{4}}-\d\d-\d\d|\d{{1,2}}\.? [{_U}]?{_W}{{3,12}} \d{{4}}(?!\w)|[{_U}]{_W}{{2,12}} \d{{1,2}}, \d{{4}}(?!\w)"
    r"|\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|[€$£¥]\d[\d.,]*\d"
    rf"|\d+(?:[.,]\d+)*[ -]?(?:{_UNITS})(?![\w/-])|(?:1[5-9]|20)\d\d(?![\w.,/-]|\.\d)"
)
_FOREIGN = r"[\u30a1-\u30fa\u30fc]{3,}"  # katakana: loan words and names
_PLAIN = (  # the look-ahead passes over most characters at once
    rf"(?=[{_U}0-9`\"“«„「『《€$£¥\u30a1-\u30fa])(?:(?P<quoted>{_QUOTED})|(?<!{_W})(?<![.,/-])(?P<quantity>{_QUANTITY})"
    rf"|(?<!{_W})(?P<name>{_CAPITALISED}(?: (?:(?:{_JOINING}) ){{0,2}}{_CAPITALISED})*(?: {_NUMBER})?)"
    rf"|(?P<foreign>{_FOREIGN}))"
)
_IDENTIFIER = (
    r"[A-Za-z_]\w*(?:(?:::|\.)[A-Za-z_]\w*)+|[A-Za-z]\w*_\w+|[a-z]+[A-Z]\w*|[A-Z][a-z0-9]+[A-Z]\w*|[A-Za-z_]\w*(?=\(\))"
    r"|--[a-z][\w-]+"
)
_FOUND = re.compile(_PLAIN)
_FOUND_WITH_CODE = re.compile(rf"(?<!{_W})(?<![.:])(?P<identifier>{_IDENTIFIER})|{_PLAIN}")
_CODE_MARKS = re.compile(r"[a-z][A-Z]|\w\.[A-Za-z_]")
_DOTTED = re.compile(r"[A-Za-z]{1,2}\.[A-Za-z]")  # "e.g", "U.S"
_POSSESSIVE = re.compile(r"['’]s?\Z")
_BETWEEN_SPACES = re.compile(r"[^ ]+")
_SPACED_WORD = re.compile(rf"(?<!['’])(?<!{_W})[^\W\d_{UNSPACED}]{_W}{{2,}}(?!['’])")
# Hiragana stands between the words of Japanese, and katakana are not divided.
_UNSPACED_RUN = re.compile(rf"(?:(?![\u3040-\u309f])[{UNSPACED}]){{2,}}")
_ATOM = re.compile(rf"{_FOREIGN}|.")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LONGEST_REPEATED, _LONGEST_HAN = 16, 6  # characters: longer strings are phrases
_VISIBLE = re.compile(rf"{_W}|[{UNSPACED}]")


@dataclass(frozen=True, slots=True)
class Entity:
    """Something that a text is about: one of the kinds above, as it is written, and where."""

    kind: int
    text: str
    start: int

    @property
    def folded(self) -> str:
        """What entities are compared by."""
        return " ".join(self.text.lower().split())


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entity, or a run of capitalised words (`is_run`); `begins` where a sentence may begin with it."""

    entity: Entity
    is_run: bool = False
    begins: bool = False

    @property
    def words(self) -> Sequence[str]:
        """The words of a run."""
        return self.entity.text.split(" ")


def find_candidates(text: str, outline: Sequence[int] = ()) -> list[Candidate]:
    """What may be an entity in the prose of a text, in its order."""
    found: list[Candidate] = []
    at = 0
    for kind, start, end in [*complete(text, outline), (PROSE, len(text), len(text))]:
        found += _candidates(text, at, start)
        at = end if kind != PROSE else at
    return found


def entities_of(candidates: Sequence[Candidate], case_of: CaseOf, most: int) -> list[Entity]:
    """The entities among the candidates, at most `most`: those that are mentioned most often, in the text's order."""
    found: dict[str, Entity] = {}
    counts: Counter[str] = Counter()
    for candidate in candidates:
        for entity in _names(candidate, case_of) if candidate.is_run else [candidate.entity]:
            if len(entity.text) <= LONGEST:
                found.setdefault(entity.folded, entity)
                counts[entity.folded] += 1
    kept = {key for key, _ in counts.most_common(most)}
    return [entity for key, entity in found.items() if key in kept]


def _candidates(text: str, begin: int, end: int) -> Iterator[Candidate]:
    found = _FOUND_WITH_CODE if _has_code(text[begin:end]) else _FOUND
    for match in found.finditer(text, begin, end):
        kind, surface = match.lastgroup, match[0]
        if kind == "name":
            before = text[max(begin, match.start() - 3) : match.start()].rstrip(" ")
            begins = not before or is_mark(before[-1])
            yield Candidate(Entity(NAME, _POSSESSIVE.sub("", surface), match.start()), True, begins)
        elif kind == "quoted":
            if entity := _quoted(surface[1:-1], match.start() + 1, surface[0] == "`"):
                yield Candidate(entity)
        elif kind == "identifier":
            if not _DOTTED.match(surface):
                yield Candidate(Entity(IDENTIFIER, surface.removesuffix("()"), match.start()))
        else:
            yield Candidate(Entity(QUANTITY if kind == "quantity" else NAME, surface, match.start()))


def _has_code(text: str) -> bool:
    """Whether a text may have identifiers."""
    return any(mark in text for mark in ("_", "::", "()", "--", "/")) or bool(_CODE_MARKS.search(text))


def _quoted(inside: str, start: int, is_code: bool) -> Entity | None:
    """A quoted term; not what stands between two quotations, nor a sentence."""
    if inside != inside.strip() or len(inside.split()) > _MOST_WORDS or len(_VISIBLE.findall(inside)) < 2:
        return None
    kind = IDENTIFIER if is_code or _has_code(inside) else TERM
    return Entity(kind, inside.rstrip(".,;:!?").removesuffix("()"), start)


def _names(candidate: Candidate, case_of: CaseOf) -> Iterator[Entity]:
    """The names in a run of capitalised words: all of them, or if it is one word, or long, those that are names."""
    text, begin = candidate.entity.text, candidate.entity.start
    words = [found.span() for found in _BETWEEN_SPACES.finditer(text)]
    if candidate.begins:
        lower, capital = case_of(fold(text[: words[0][1]]))
        if lower and capital * _FUNCTION_WORD <= lower:
            del words[0]
    while words and text[slice(*words[0])] in _JOINING_WORDS:
        del words[0]
    if not words or text[slice(*words[0])].lower().rstrip("s") in _LABELS:
        return
    is_shouted = len(words) > 2 and text.isupper()
    runs = [words] if 1 < len(words) <= _MOST_WORDS and not is_shouted else _runs_of_names(text, words, case_of)
    for run in runs:
        name = text[run[0][0] : run[-1][1]]
        if len(run) <= _MOST_WORDS and sum(map(str.isalpha, name)) > 1:
            yield Entity(NAME, name, begin + run[0][0])


def _runs_of_names(text: str, words: Sequence[tuple[int, int]], case_of: CaseOf) -> Iterator[list[tuple[int, int]]]:
    """Neighbouring words that are written with a capital more often than without one."""
    run: list[tuple[int, int]] = []
    for start, end in words:
        lower, capital = case_of(fold(text[start:end]))
        if capital > lower and text[start + 1 : start + 2] not in ("", "'", "’"):  # not "I", "I'm"
            run.append((start, end))
        elif run:
            yield run
            run = []
    if run:
        yield run


def rare_words(text: str, wanted: Sequence[int], spelled: Mapping[int, Sequence[str]]) -> list[Entity]:
    """The words of a text whose keys are wanted, in that order; `spelled` says how the words of a key are written.

    In scripts without spaces, words are strings that the text repeats; a wanted pair of characters stands for those
    that have it.
    """
    found: dict[int, Entity] = {}
    for key in wanted:
        places = [(at, word) for word in spelled.get(key, ()) if (at := _place(text, word)) >= 0]
        if places:
            at, word = min(places)
            found[key] = Entity(RARE, word, at)
    if not text.isascii():
        for string in _repeated_strings(text):
            for key in set(wanted).intersection(map(key_of, terms_of(string))):
                found.setdefault(key, Entity(RARE, string, text.index(string)))
    return list(dict.fromkeys(found[key] for key in wanted if key in found))


def _place(text: str, word: str) -> int:
    """Where a word is in a text, -1 if it is none that can be an entity: a number, "don" of "don't"."""
    at = text.find(word)
    while at >= 0:
        match = _SPACED_WORD.match(text, at)
        if match and match[0] == word:
            return at
        at = text.find(word, at + 1)
    return -1


def _repeated_strings(text: str) -> dict[str, int]:
    """Strings in scripts without spaces that a text has more than once, but for parts of longer ones; how often."""
    runs = [_ATOM.findall(run) for run in _UNSPACED_RUN.findall(text)]
    found: dict[str, int] = {}
    shorter: dict[str, int] = {}
    size = 1
    while runs and (size == 1 or shorter):
        pieces = Counter(tuple(run[at : at + size]) for run in runs for at in range(len(run) - size + 1))
        counts = {"".join(piece): count for piece, count in pieces.items() if count > 1}
        within: dict[str, int] = {}
        for piece, count in pieces.items() if size > 1 else ():
            for inside in ("".join(piece[1:]), "".join(piece[:-1])):
                within[inside] = max(count, within.get(inside, 0))
        found |= {piece: count for piece, count in shorter.items() if count > within.get(piece, 0)}
        shorter, size = counts, size + 1
    return {
        piece: count
        for piece, count in found.items()
        if 1 < len(piece) <= (_LONGEST_HAN if _HAN.search(piece) else _LONGEST_REPEATED)
    }
