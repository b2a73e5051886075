"""The logic of a corpus, by the name of its set ("semantic/w0" belongs to the set "semantic")."""

from collections.abc import Callable
from functools import cache, partial

from data.sentences import split_sentences
from data.sets.derivation import PLAIN, PROPERTIES, STEPS, contradicts, derive
from data.sets.language import parse
from data.sets.oracle import Logic, Reading
from data.sets.process.logic import logic as process_logic
from data.sets.process.small import contradicts as contradicts_steps
from data.sets.reversal_curse.logic import logic as curse_logic
from data.sets.semantic.logic import logic as semantic_logic
from data.sets.simple_logic import logic as simple_logic


@cache
def plain_logic() -> Logic:
    """The closed language of the small sets, sentence by sentence."""
    return Logic(_read_plain, partial(derive, theory=PLAIN), partial(contradicts, theory=PLAIN))


@cache
def _small_semantic_logic() -> Logic:
    """The same language; members inherit the properties of their category."""
    return Logic(_read_plain, partial(derive, theory=PROPERTIES), partial(contradicts, theory=PROPERTIES))


@cache
def _small_process_logic() -> Logic:
    """The same language; steps follow one another."""
    return Logic(_read_plain, partial(derive, theory=STEPS), contradicts_steps)


@cache
def foreign_logic() -> Logic:
    """For other documents: only a text that is a single plain statement is read, so that it costs little."""
    return Logic(_read_whole, plain_logic().derive, plain_logic().contradicts)


def is_generated(corpus: str) -> bool:
    """Whether a corpus was generated, so that its logic reads all of its texts."""
    name, _, world = corpus.partition("/")
    return name in _LOGICS and world.startswith("w")


def logic_of(corpus: str) -> Logic:
    """The logic of a corpus, by its name."""
    return _LOGICS.get(corpus.partition("/")[0], foreign_logic)()


def _read_whole(text: str) -> Reading:
    statement = parse(text)
    return [(text, (statement,) if statement else None)]


def _read_plain(text: str) -> Reading:
    found = ((sentence, parse(sentence)) for sentence in split_sentences(text))
    return [(sentence, (statement,) if statement else None) for sentence, statement in found]


@cache
def _curse_logic() -> Logic:
    """Descriptions in English and, in the embedded model's lexicon, roles."""
    plain, english = plain_logic(), curse_logic()

    def read(text: str) -> Reading:
        found = english.read(text)
        return found if any(statements is not None for _, statements in found) else plain.read(text)

    return Logic(read, english.derive, english.contradicts)


_LOGICS: dict[str, Callable[[], Logic]] = {
    "process": process_logic,
    "process-tiny": _small_process_logic,
    "reversal-curse": _curse_logic,
    "reversals": simple_logic,
    "syllogisms": simple_logic,
    "semantic": semantic_logic,
    "semantic-tiny": _small_semantic_logic,
}
