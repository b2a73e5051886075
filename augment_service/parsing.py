"""stub"""

import re
from dataclasses import dataclass

KEPT = "kept"
NOTHING = "nothing follows"
UNFINISHED = "unfinished"
EMPTY = "empty"
COPIED = "copied"
REPEATED = "repeated"
UNPARSED = "unparsed"
_BULLET = re.compile(r"^(?:[-*•–]|\(?\d{1,3}[.)])\s+")
_EDGES = " \t\"'“”‘’«»`*.,;:!?"


@dataclass(frozen=True, slots=True)
class Parsed:
    text: str
    verdict: str
    reasoning: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    parser: str
    source: str
    nothing: str
    examples: tuple[str, ...] = ()
    answer_after: str = ""
    language: str = ""


def fold(text: str) -> str:
    return text.strip(_EDGES).lower()


def parse_answer(text: str, finish_reason: str, asked: Asked) -> tuple[Parsed, ...]:
    text = text.rpartition("</think>")[2]
    if asked.parser == "statement":
        line = _BULLET.sub("", " ".join(text.split()))
        reasoning, answer, ok = "", line, True
        if asked.answer_after:
            reasoning, mark, answer = line.rpartition(asked.answer_after)
            reasoning, ok = reasoning + mark, bool(mark)
        return (Parsed(answer, _judge(answer, finish_reason, asked, ok), reasoning),)
    if asked.parser == "text":
        return (Parsed(text.strip(), KEPT if text.strip() else EMPTY),)
    found = []
    question = ""
    for line in text.splitlines():
        line = _BULLET.sub("", line.strip())
        if not line:
            continue
        if asked.parser == "questions":
            if line.lower().startswith("q"):
                question = line.partition(":")[2].strip()
            elif question:
                found.append(Parsed(line.partition(":")[2].strip(), KEPT, question=question))
                question = ""
            continue
        found.append(Parsed(line, _judge(line, "stop", asked, True)))
    return tuple(found) or (Parsed(text.strip(), EMPTY if not text.strip() else UNPARSED),)


def _judge(text, finish_reason, asked, ok):
    if finish_reason != "stop":
        return UNFINISHED
    folded = fold(text)
    if not folded:
        return EMPTY
    if folded == fold(asked.nothing):
        return NOTHING
    if not ok:
        return UNPARSED
    return COPIED if folded == fold(asked.source) else KEPT
