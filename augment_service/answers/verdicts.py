"""What decides how an answer is read, what is found in it, and the verdicts. Pure."""

from dataclasses import dataclass

KEPT = "kept"
NOTHING = "nothing follows"
REPEATED = "repeated"
COPIED = "copied"
EXAMPLE = "from the example"
UNPARSED = "unparsed"
UNFINISHED = "unfinished"
LANGUAGE = "other language"
EMPTY = "empty"
REFERS = "refers to the text"  # a question that cannot be asked without it
ASKED = "test question"  # the question of a test, which training would teach
VERDICTS = (KEPT, NOTHING, REPEATED, COPIED, EXAMPLE, UNPARSED, UNFINISHED, LANGUAGE, EMPTY, REFERS, ASKED)


@dataclass(frozen=True, slots=True)
class Parsed:
    """One inference in an answer. Producer: `augment_service.parsing`. Consumer: `augment_service.methods`.

    `text` is the statement, of questions the answer to `question`. `verdict` is "kept" or the reason for the rejection.
    `reasoning` is what the model wrote before it, where the template has a mark between the two.
    """

    text: str
    verdict: str
    reasoning: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides how an answer is read. Producer: `augment_service.methods`. Consumer: `augment_service.parsing`.

    `source` is the sentence or the document that was asked about, `nothing` the phrase of the prompt book for "nothing
    follows". `examples` are the statements of the template's worked examples: what was given there, and what was
    answered. `answer_after` is the mark between reasoning and answer. `language` is the document's ISO 639 code, "" if
    it is unknown.
    """

    parser: str
    source: str
    nothing: str
    examples: tuple[str, ...] = ()
    answer_after: str = ""
    language: str = ""
