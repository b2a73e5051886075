"""What follows from the documents of a generated set but stands in none of them, as texts: the oracle's closure.

Pure. The wordings are those of the set's documents. It contains the facts that the tests ask for: what is trained on it
shows how far a model can come at most, and is no method.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from random import Random

from data.records import Document
from data.seeds import stream
from data.sets.grammar import print_statement
from data.sets.language import PHRASINGS, Statement
from data.sets.logics import logic_of
from data.sets.oracle import Logic, Oracle
from data.sets.process.logic import TEMPLATES
from data.sets.reversal_curse.logic import load_people
from data.sets.reversal_curse.worlds import fill
from data.sets.semantic.logic import load_styles


class Closure:
    """What follows from the documents of one corpus, assigned to the document whose training rows it joins."""

    def __init__(self, documents: Sequence[Document], corpus: str, seed: int) -> None:
        self._logic, self._seed = logic_of(corpus), seed
        self._is_prose = any(document.text.rstrip().endswith(".") for document in documents)
        self._members: dict[str, list[tuple[Statement, tuple[str, ...]]]] = {}
        oracle = Oracle(documents, self._logic)
        for statement in unstated(oracle):
            sources = _sources(statement, oracle)
            rng = stream(seed, "closure", corpus, *_names(statement))
            home = rng.choice(sorted({doc_id for ids in sources for doc_id in ids}))
            others = [ids[0] for ids in sources if home not in ids]
            self._members.setdefault(home, []).append((statement, (home, *dict.fromkeys(others))))

    def texts(self, doc_id: str, *, statements: int, wordings: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Up to that many statements beside a document, in up to that many wordings each: text and sources.

        Which ones is drawn with the seed. Sources are the document, and one that states each further fact of a proof.
        """
        members = self._members.get(doc_id, [])
        rng = stream(self._seed, "closure", doc_id)
        for statement, sources in rng.sample(members, min(statements, len(members))):
            found = spell(statement, self._logic, rng, is_prose=self._is_prose)
            yield from ((text, sources) for text in islice(found, wordings))


def unstated(oracle: Oracle) -> list[Statement]:
    """All that follows, in every direction that no document states it in, ordered.

    What says less than something else that follows of the same two ("some" beside "all") is left out.
    """
    derived = oracle.derived
    both = (one for known in derived for one in (known, _turned(known)) if one and one.canonical() in derived)
    found = {one for one in both if one not in oracle.stated}
    return sorted((one for one in found if one.form != "some" or replace(one, form="all") not in derived), key=_names)


def spell(statement: Statement, logic: Logic, rng: Random, *, is_prose: bool) -> Iterator[str]:
    """The statement in the wordings of its set's documents, in an order of chance: those that state it and no more.

    Where a set has a plain wording, it comes first; with `is_prose`, it begins with a capital and ends in a full stop.
    """
    wordings = list(dict.fromkeys(_wordings(statement, is_prose)))
    has_plain = statement.form in PHRASINGS and not _is_person(statement)
    first, others = wordings[:has_plain], wordings[has_plain:]
    for text in [*first, *rng.sample(others, len(others))]:
        if [one for _, found in logic.read(text) for one in found or ()] == [statement]:
            yield text


def _wordings(statement: Statement, is_prose: bool) -> Iterator[str]:
    form = statement.form
    if _is_person(statement):
        people = load_people()
        templates = people.train["p2d" if form == "is" else "d2p"]
        yield from (fill(template, statement.canonical()) for template in templates)
    elif form in PHRASINGS:
        for phrasing in range(len(PHRASINGS[form])):
            text = statement.text(phrasing)
            yield f"{text[0].upper()}{text[1:]}." if is_prose else text
    elif form in ("value", "rule"):
        parts = {"o": statement.relation, "t": statement.first, "r": statement.second}
        yield from (template.format(**parts) for template in TEMPLATES)
    else:
        yield from (print_statement(template, statement) for template in _templates(form))


@cache
def _templates(form: str) -> list[str]:
    """The sentences of all styles of the semantic set's documents."""
    return [text for style in load_styles()["style"].values() for text in style.get(form, ()) if text.endswith(".")]


def _turned(statement: Statement) -> Statement | None:
    """The statement told from its other end; None where a form has no other one."""
    try:
        return statement.reversed()
    except KeyError:
        return None


def _sources(statement: Statement, oracle: Oracle) -> list[list[str]]:
    """For each fact of the proof, the documents that state it."""
    stated = oracle.stated
    facts: Iterable[Statement] = oracle.proof(statement)
    found = []
    for fact in facts:
        turned = _turned(fact)
        found.append(sorted({*stated.get(fact, ()), *(stated.get(turned, ()) if turned else ())}))
    return [ids for ids in found if ids]


def _is_person(statement: Statement) -> bool:
    """Whether it equates a person and a description, as in the English reversal-curse set."""
    return statement.form in ("is", "of") and not statement.relation


def _names(statement: Statement) -> tuple[str, str, str, str]:
    return statement.form, statement.relation, statement.first, statement.second
