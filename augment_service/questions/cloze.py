"""Questions that no model writes: the end of a sentence, and the subject of a statement that is turned around.

Pure.
"""

import re
from collections.abc import Sequence

from augment_service.questions.answers import DATE, NAME, NUMBER, WORD, Frequencies, Span, anchors_of, spans_of
from augment_service.questions.drafts import CLOZE, REVERSAL, Draft
from data.facts import Fact, fold, words_of
from data.seeds import fingerprint
from data.structure import BETWEEN

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LATE = 0.35  # of the sentence precedes its answer, at least
_FEWEST_BEFORE = 8  # characters of the sentence
_CONTENT_WORD = 5  # letters; in a small corpus function words, which are shorter, look rare, too
_HEADING_WORD = 4  # letters of a word by which a sentence names its heading
_MARK = re.compile(r"^(?:[-*+•–]|\(?\d{1,3}[.)])\s+")
# "X is the Y" -> "The Y is" X. By language: the verb between the two, and what begins a description of one thing only.
_COPULAS = {
    "en": (r"is|was|has been|had been|became", r"the|its|their"),
    "de": (r"ist|war|wurde", r"der|die|das"),
    "fr": (r"est|était|fut", r"l[ea] |l[’']"),
    "es": (r"es|era|fue", r"el|la"),
    "it": (r"è|era|fu", r"il|la|lo|l[’']"),
    "pt": (r"é|era|foi", r"o|a"),
    "nl": (r"is|was|werd", r"de|het"),
}


def cloze(fact: Fact, source: str, frequencies: Frequencies) -> Draft | None:
    """The sentence up to its last name, number or date, or else its last rare word; None where nothing fits.

    The answer stands late in the sentence, and has not been said before it; what precedes it names something.
    """
    sentence = _MARK.sub("", fact.sentence)
    spans = spans_of(sentence, frequencies)
    found = _answer(fact.heading, sentence, spans, frequencies)
    if found is None:
        return None
    prompt = about(fact.heading, sentence[: found.start].rstrip())
    return _draft(fact, CLOZE, source, prompt, found, joiner_before(sentence, found.start), frequencies)


def _answer(heading: str, sentence: str, spans: Sequence[Span], frequencies: Frequencies) -> Span | None:
    for wanted in ((DATE, NUMBER, NAME), (WORD,)):
        for span in reversed(spans):
            if span.kind in wanted and _fits(span, heading, sentence, frequencies):
                names = heading or any(_names_something(one, frequencies) for one in spans if one.stop <= span.start)
                if names and not _says(f"{heading} {sentence[: span.start]}", span.text):
                    return span
    return None


def _names_something(span: Span, frequencies: Frequencies) -> bool:
    return span.kind != WORD or frequencies.tells_rare_words


def _fits(span: Span, heading: str, sentence: str, frequencies: Frequencies) -> bool:
    """Whether a span can be asked for: late in the sentence, in no aside, no month after its day, no function word."""
    before = sentence[: span.start]
    fewest = _FEWEST_BEFORE // 2 if _UNSPACED.search(before) else _FEWEST_BEFORE
    if len(heading + before) < fewest or span.start < _LATE * len(sentence):
        return False
    if before.count("(") > before.count(")") or before.count("[") > before.count("]"):
        return False
    if span.kind == NAME and before.rstrip()[-1:].isdigit():
        return False
    is_last = not sentence[span.stop :].strip(" .!?\"'”’")
    return span.kind != WORD or frequencies.tells_rare_words or (is_last and len(span.text) >= _CONTENT_WORD)


def _says(text: str, answer: str) -> bool:
    """Whether a text has the answer in it, or any part of it that could give it away."""
    words = set(words_of(text))
    parts = [word for word in words_of(answer) if len(word) >= _HEADING_WORD or word.isdigit()] or words_of(answer)
    return fold(answer) in fold(text) or any(part in words for part in parts)


def about(heading: str, beginning: str) -> str:
    """The beginning of a sentence, after the headings above it if the sentence does not name what they name."""
    named = [word for word in words_of(heading.replace(BETWEEN, " ")) if len(word) >= _HEADING_WORD]
    is_named = named and set(words_of(beginning)).issuperset(named)
    return f"{heading}: {beginning}" if heading and not is_named else beginning


def joiner_before(sentence: str, at: int) -> str:
    """What joins an option to its prompt: nothing in scripts without spaces between words."""
    return " " if sentence[at - 1 : at].isspace() or not _UNSPACED.match(sentence[at - 1 : at]) else ""


def subject_of(sentence: str, frequencies: Frequencies) -> Span | None:
    """The name, or else the rare word, with which a sentence begins; what precedes it is no name or number."""
    spans = spans_of(sentence, frequencies)
    first = spans[0] if len(spans) > 1 else None
    if first is None or first.start > len(sentence) / 2:
        return None
    is_word = first.kind == WORD and (frequencies.tells_rare_words or sentence[:1].islower())
    return first if first.kind == NAME or is_word else None


def turned_by_rule(fact: Fact, source: str, language: str, frequencies: Frequencies) -> Draft | None:
    """From the property to the entity: "X is the Y of Z." asks "The Y of Z is". None for other sentences.

    X has to begin the sentence, at most after an article, and the description is of one thing only: it begins with a
    definite article.
    """
    subject = subject_of(fact.sentence, frequencies)
    verbs, articles = _COPULAS.get(language or "en", ("", ""))
    article = fact.sentence[: subject.start] if subject else ""
    if subject is None or not verbs or not re.fullmatch(r"(?:[^\W\d_]{1,4}\s)?", article):
        return None
    found = re.match(rf"\s+({verbs})\s+((?:{articles})\b\s*.+)", fact.sentence[subject.stop :])
    if not found:
        return None
    rest = found[2].rstrip(" .!?")
    if _says(rest, subject.text) or "," in rest or ";" in rest:
        return None
    return reversal(
        fact, source, f"{rest[0].upper()}{rest[1:]} {found[1]} {article.lower()}{subject.text}", subject, frequencies
    )


def reversal(fact: Fact, source: str, turned: str, subject: Span, frequencies: Frequencies | None) -> Draft | None:
    """The question of a statement that ends with the subject; None if it does not, or says the subject before."""
    text = turned.rstrip(" .!?。")
    if not text.endswith(subject.text):
        return None
    prompt = text[: -len(subject.text)]
    if len(prompt.strip()) < _FEWEST_BEFORE or _says(prompt, subject.text) or prompt[-1:].isalnum():
        return None
    return _draft(fact, REVERSAL, source, prompt.rstrip(), subject, joiner_before(text, len(prompt)), frequencies)


def _draft(
    fact: Fact, writer: str, source: str, prompt: str, answer: Span, joiner: str, frequencies: Frequencies | None
) -> Draft:
    return Draft(
        draft_id=fingerprint(writer, fact.corpus, fact.fact_id, prompt, answer.text),
        corpus=fact.corpus,
        writer=writer,
        part=fact.part,
        fact_id=fact.fact_id,
        requires=(fact.doc_id,),
        sentence=fact.sentence,
        source=source,
        prompt=prompt,
        joiner=joiner,
        answer=answer.text,
        kind=answer.kind,
        classes=answer.classes,
        anchors=anchors_of(fact.sentence, frequencies) if frequencies else (),
    )
