"""The logic of a corpus, by the name of its set ("semantic/w0" belongs to the set "semantic")."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from data.sets import simple_logic
from data.sets.derivation import PLAIN, PROPERTIES, STEPS, Derivation, derive
from data.sets.language import Statement, read_plain
from data.sets.oracle import Logic, Reading, by_sentence, by_theory
from data.sets.process import logic as process
from data.sets.reversal_curse import logic as reversal_curse
from data.sets.semantic import logic as semantic

_read_plain = partial(by_sentence, read_plain)  # the closed language of the small sets
# Of other documents only a text that is a single plain statement is read, so that it costs little.
_FOREIGN = by_theory(lambda text: [(text, read_plain(text))], PLAIN)


def is_generated(corpus: str) -> bool:
    """Whether a corpus was generated, so that its logic reads all of its texts."""
    name, _, world = corpus.partition("/")
    return name in _LOGICS and world.startswith("w")


def logic_of(corpus: str) -> Logic:
    """The logic of a corpus, by its name."""
    return _LOGICS.get(corpus.partition("/")[0], _FOREIGN)


def _read_people(text: str) -> Reading:
    """Descriptions in English and, in the embedded model's lexicon, roles."""
    found = reversal_curse.LOGIC.read(text)
    return found if any(statements is not None for _, statements in found) else _read_plain(text)


def _contradicts_steps(statement: Statement, derived: Mapping[Statement, Derivation]) -> bool:
    """Whether something else follows for the same noun and steps."""
    canonical = statement.canonical()
    wanted = (canonical.relation, canonical.second)
    return any((s.relation, s.second) == wanted and s.first != canonical.first for s in derived)


_LOGICS = {
    "process": process.LOGIC,
    "process-tiny": Logic(_read_plain, partial(derive, theory=STEPS), _contradicts_steps),
    "reversal-curse": replace(reversal_curse.LOGIC, read=_read_people),
    "reversals": simple_logic.LOGIC,
    "syllogisms": simple_logic.LOGIC,
    "semantic": semantic.LOGIC,
    "semantic-tiny": by_theory(_read_plain, PROPERTIES),
}
