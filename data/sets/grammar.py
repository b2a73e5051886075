"""Sentence templates that print statements and read them back.

A template has slots: {a} for the first entity, {b} and {c} for what is said of it, {r} for a relation; letters that
follow a slot inflect its word ("{a}s", "{r}ed"). Reading is one look-up: every word that is in no template fills a
slot, and the rest is the template's skeleton. So reading a corpus costs no more than splitting it into words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from data.sets.language import Statement

_SLOT = re.compile(r"\{([abcr])\}(s|ed|ing)?")
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_SPEAKER = re.compile(r"^(?:q|a|question|answer)\s*[:.]\s*")
_ENDINGS = ("ing", "ed", "s")
_PAUSE = re.compile(r"[,;:]|\b(?:so|therefore|thus|hence)\b")  # where a sentence of several clauses is cut, first try
_CONJUNCTION = re.compile(r"[,;:]|\b(?:so|therefore|thus|hence|and|while|whereas)\b")  # second try

# Openings that do not change a statement; the longest one that matches is removed, repeatedly.
OPENINGS: list[str] = (
    "it follows that; this means that; which means that; that means that; it must be that; it must be true that; "
    "we can conclude that; we can infer that; one can conclude that; from this it follows that; this implies that; "
    "did you know that; it is said that; people say that; note that; remember that; in fact; we found that; "
    "as everyone knows; it is known that; it is true that; recall that; keep in mind that; studies show that; "
    "experts agree that; i was told that; it turns out that; few people know that; we know that; given that; "
    "if; since; because; therefore; thus; hence; so; then; and; but; yes; indeed; conversely; in other words; "
    "put differently; equivalently; as a result; consequently; in short; in turn; in addition; moreover; "
    "rather; no; for example; by the way; according to the text; according to the document"
).split("; ")


# What a skeleton states: (form, first, second, relation) as positions of slots; () for a filler.
_Meaning = tuple[tuple[str, int, int, int], ...]


class Grammar:
    """All templates of a language, by form; "kind+trait" is a template that makes two statements about {a}.

    `noise` words change nothing and are dropped. With `inflected`, endings of slots are part of a skeleton.
    `fillers` are sentences that state nothing. `openings` are removed beside the common ones; `kept` names
    common ones that carry meaning here and stay.
    """

    def __init__(
        self,
        templates: Mapping[str, Iterable[str]],
        *,
        noise: Sequence[str] = (),
        inflected: bool = False,
        fillers: Iterable[str] = (),
        openings: Iterable[str] = (),
        kept: Sequence[str] = (),
    ) -> None:
        self._noise = frozenset(noise)
        self._inflected = inflected
        own = {tuple(self._words(opening.lower())) for opening in (*OPENINGS, *openings)} - {()}
        self._openings = own - {tuple(opening.split()) for opening in kept}
        self._longest_opening = max(map(len, self._openings))
        listed = [("", text) for text in fillers]
        listed += [(form, text) for form, texts in templates.items() for text in texts]
        plain = (word for _, text in listed for word in _WORD.findall(_SLOT.sub(" ", text).lower()))
        self._known = frozenset(plain)
        self._meanings: dict[tuple[str, ...], _Meaning] = {}
        for form, text in listed:
            skeleton, meaning = self._compile(form, text)
            if self._meanings.setdefault(skeleton, meaning) != meaning:
                raise ValueError(f"two meanings for one skeleton: {text!r}")

    def read_sentence(self, sentence: str) -> tuple[Statement, ...] | None:
        """The statements of one sentence: () for a filler, None if it cannot be read."""
        plain = _SPEAKER.sub("", sentence.strip().lower()).replace("can't", "cannot").replace("n't", " not")
        whole = self._read_clause(plain)
        if whole is not None:
            return whole
        for joint in (_PAUSE, _CONJUNCTION):
            clauses = [self._read_clause(clause) for clause in joint.split(plain) if clause.strip()]
            if len(clauses) > 1 and None not in clauses:
                return tuple(dict.fromkeys(statement for clause in clauses for statement in clause or ()))
        return None

    def _read_clause(self, clause: str) -> tuple[Statement, ...] | None:
        words = self._words(clause)
        while True:
            skeleton, content = self._skeleton(words)
            if (meaning := self._meanings.get(skeleton)) is not None:
                return tuple(
                    Statement(form, content[r] if r >= 0 else "", content[a], content[b]) for form, a, b, r in meaning
                )
            length = next((n for n in range(self._longest_opening, 0, -1) if tuple(words[:n]) in self._openings), 0)
            if not length:
                return None
            words = words[length:]

    def _words(self, text: str) -> list[str]:
        words = ("a" if word == "an" else word for word in _WORD.findall(text))
        return [word for word in words if word not in self._noise]

    def _skeleton(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        skeleton: list[str] = []
        content: list[str] = []
        for word in words:
            if word in self._known:
                skeleton.append(word)
                continue
            ending = next((end for end in _ENDINGS if word.endswith(end)), "") if self._inflected else ""
            skeleton.append("_" + ending)
            content.append(word.removesuffix(ending))
        return tuple(skeleton), content

    def _compile(self, form: str, text: str) -> tuple[tuple[str, ...], _Meaning]:
        names = [name for name, _ in _SLOT.findall(text)]
        if len(set(names)) != len(names):
            raise ValueError(f"a slot occurs twice: {text!r}")
        # Printed with a stand-in for each slot, a template goes through the same reading as any other text.
        stand_ins = {name: f"zq{name}" for name in "abcr"}
        skeleton, content = self._skeleton(self._words(fill(text, **stand_ins).lower()))
        if not form:
            return skeleton, ()
        at = {name: index for index, stand_in in enumerate(content) for name in "abcr" if stand_in == f"zq{name}"}
        parts = form.split("+")
        return skeleton, tuple((part, at["a"], at["bc"[index]], at.get("r", -1)) for index, part in enumerate(parts))


def fill(template: str, *, a: str = "", b: str = "", c: str = "", r: str = "") -> str:
    """A template with its slots filled, beginning with a capital."""
    text = template.replace("{a}", a).replace("{b}", b).replace("{c}", c).replace("{r}", r)
    start = next((index for index, letter in enumerate(text) if letter.isalpha()), 0)
    return text[:start] + text[start].upper() + text[start + 1 :]


def print_statement(template: str, statement: Statement) -> str:
    """One statement by a template of its form."""
    return fill(template, a=statement.first, b=statement.second, r=statement.relation)
