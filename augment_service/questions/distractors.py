"""Wrong options: answers of the same kind from the same corpus, near in length and in prior log-likelihood.

Pure. The answer's rank among the options by prior is drawn, so that a model that takes the likeliest text without
reading is at chance.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from augment_service.questions.answers import NUMBER, are_equal, value_of
from augment_service.questions.drafts import Draft
from data.facts import fold
from data.seeds import stream

FEW = "too few wrong options of its kind"
_ENOUGH = 3  # times as many as are needed: then no wider class is looked at
_PER_CHARACTER = 0.3  # nats that a difference of one character in length counts as
_PER_CLASS = 2.0  # nats that a wider class counts as
_PER_USE, _MOST_USES = 1.5, 3  # nats that a common use counts as
_YEARS = 40
_MADE = 6  # numbers made from an answer where the corpus has too few


@dataclass
class Entry:
    """An answer of the corpus: what it is, and what its sentences are about."""

    text: str
    kind: str
    anchors: set[str] = field(default_factory=set)


class Pool:
    """Answers of one corpus by their classes, each folded text once; and how names are used in its sentences."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._by_class: dict[str, dict[str, None]] = defaultdict(dict)
        self._uses: dict[str, set[str]] = defaultdict(set)

    def add(self, draft: Draft) -> None:
        """The answer of a draft, kept or not."""
        name = fold(draft.answer)
        if not name or not draft.kind:
            return
        entry = self.entries.setdefault(name, Entry(draft.answer, draft.kind))
        entry.anchors.update(draft.anchors)
        for one in draft.classes:
            self._by_class[one][name] = None

    def note_uses(self, uses: Iterable[tuple[str, str]]) -> None:
        """Names with a word beside them: those that are used alike are of one kind (people, places)."""
        for name, use in uses:
            self._uses[name].add(use)

    def candidates(self, draft: Draft, needed: int, *, seed: int) -> dict[str, float]:
        """Texts that could be wrong options, and how unlike the answer each is, in nats."""
        found: dict[str, float] = {}
        uses = self._uses.get(fold(draft.answer), set())
        classes = draft.classes[:-1] if draft.kind == NUMBER else draft.classes
        for level, one in enumerate(classes):
            for name in self._by_class.get(one, ()):
                text = self.entries[name].text
                if text not in found and self.entries[name].kind == draft.kind and self._is_wrong(draft, name):
                    shared = len(uses & self._uses.get(name, set()))
                    found[text] = _PER_CLASS * level - _PER_USE * min(shared, _MOST_USES)
            if len(found) >= _ENOUGH * needed:
                break
        if draft.kind == NUMBER and len(found) < needed:
            for text in made_numbers(draft.answer, seed, draft.draft_id):
                if not _stands_in(text, draft.source):
                    found.setdefault(text, _PER_CLASS * len(classes))
        return found

    def _is_wrong(self, draft: Draft, name: str) -> bool:
        """Not equal to the answer, not near its source, and not said of what the question is about."""
        entry = self.entries[name]
        if are_equal(entry.text, draft.answer) or _stands_in(entry.text, draft.source):
            return False
        if fold(entry.text) in fold(draft.answer) or fold(draft.answer) in fold(entry.text):
            return False
        if _stands_in(entry.text, draft.prompt):
            return False
        asked = fold(draft.prompt)
        return not any(anchor in asked for anchor in entry.anchors if anchor in draft.anchors)


def made_numbers(answer: str, seed: int, name: str) -> list[str]:
    """Numbers of the same format near an answer: as many digits, separators and zeros at the end."""
    digits = re.sub(r"\D", "", answer)
    if not digits.isascii() or not digits.strip("0") or value_of(answer) is None:
        return []
    zeros = len(digits) - len(digits.rstrip("0"))
    whole = int(digits) // 10**zeros
    size = len(digits) - zeros
    is_year = len(answer) == 4 and answer.isdigit()
    spread = _YEARS if is_year else max(5, whole // 2)
    low, high = max(10 ** (size - 1) if size > 1 else 1, whole - spread), min(10**size - 1, whole + spread)
    draw = stream(seed, "numbers", name)
    numbers = {draw.randint(low, high) for _ in range(3 * _MADE)} - {whole}
    chosen = sorted(numbers, key=lambda _: draw.random())[:_MADE]
    return [_in_format(f"{number}{'0' * zeros}", answer) for number in chosen]


def _in_format(digits: str, answer: str) -> str:
    left = iter(digits)
    return "".join(next(left) if sign.isdigit() else sign for sign in answer)


def with_options(
    draft: Draft, candidates: Mapping[str, float], priors: Mapping[str, float], number: int, *, seed: int
) -> Draft:
    """The draft with its options in a drawn order; dropped if there are too few, or the answer has no prior.

    `candidates` are texts with how unlike the answer they are; `priors` are log-likelihoods in a neutral frame, of the
    joiner and the text.
    """
    own = priors.get(draft.joiner + draft.answer)
    known = [text for text in candidates if draft.joiner + text in priors]
    if own is None or len(known) < number - 1:
        return replace(draft, reason=FEW)
    draw = stream(seed, "options", draft.draft_id)

    def cost(text: str) -> float:
        distance = abs(priors[draft.joiner + text] - own) + _PER_CHARACTER * abs(len(text) - len(draft.answer))
        return distance + candidates[text]

    likelier = sorted((text for text in known if priors[draft.joiner + text] > own), key=cost)
    others = sorted((text for text in known if priors[draft.joiner + text] <= own), key=cost)
    rank = draw.randrange(number)
    above = max(min(rank, len(likelier)), number - 1 - len(others))
    options = [draft.answer, *likelier[:above], *others[: number - 1 - above]]
    draw.shuffle(options)
    return replace(
        draft,
        options=tuple(options),
        right=options.index(draft.answer),
        priors=tuple(priors[draft.joiner + text] for text in options),
    )


def pools_of(drafts: Iterable[Draft]) -> dict[str, Pool]:
    """The answers of each corpus."""
    pools: dict[str, Pool] = defaultdict(Pool)
    for draft in drafts:
        pools[draft.corpus].add(draft)
    return pools


def _stands_in(text: str, source: str) -> bool:
    """Whether a text stands in another one, in words of its own."""
    folded, whole = fold(text), fold(source)
    at = whole.find(folded)
    while at >= 0:
        before, after = whole[at - 1 : at], whole[at + len(folded) : at + len(folded) + 1]
        if not (before.isalnum() and folded[:1].isascii()) and not (after.isalnum() and folded[-1:].isascii()):
            return True
        at = whole.find(folded, at + 1)
    return False
