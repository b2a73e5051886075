"""What a model wrote to inferences, each with a verdict. Pure.

An answer is read in one of five ways (`PARSERS`):

| parser | an inference is |
|---|---|
| statement | the first statement of the answer, on one line |
| statements | each line, list item, or string of a JSON list |
| questions | each pair of question and answer |
| text | the whole answer, with its line ends and Markdown |
| names | each line or list item: a name, and what follows its colon |

Thoughts, introductions, closings, markers of list items, quotes and emphasis around a line are left out; otherwise a
text is kept as it was written.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from augment_service.answers.documents import read_document
from augment_service.answers.folding import fold
from augment_service.answers.judging import Judge, repeats_itself
from augment_service.answers.lines import (
    ENDS,
    FIRST,
    QUOTES,
    Line,
    on_one_line,
    read_lines,
    without_label,
    without_thoughts,
)
from augment_service.answers.markup import list_marker
from augment_service.answers.objects import has_objects, values_of
from augment_service.answers.pairs import read_pairs
from augment_service.answers.phrases import begins_with_talk, is_talk, names_answer, refers_to_text, says_nothing
from augment_service.answers.verdicts import (
    COPIED,
    EMPTY,
    EXAMPLE,
    KEPT,
    LANGUAGE,
    NOTHING,
    REFERS,
    REPEATED,
    UNFINISHED,
    UNPARSED,
    Asked,
    Parsed,
)
from data.sentences import count_words

PARSERS = ("statement", "statements", "questions", "text", "names")
_MOST_WORDS_OF_NAME, _MOST_WORDS_OF_ITEM = 12, 100  # of a line, of the item of a list
_MOST_WORDS_OF_NOTHING = 40  # with the explanation behind it
_LEAST_WORDS_OF_TEXT = 4
_MOST_COPIED = 0.5  # of the sentences of a text
_LETTER = re.compile(r"[^\W\d_]")
_COMMAS = re.compile(r"\s*(?:[,;](?=\s)|[、，；])\s*(?:(?:and|und|et|y|e)\s+)?|\s+(?:and|und|et)\s+")
_COLON = re.compile(r":\s+|：")
_MOST_WORDS_OF_HEADING = 3  # a longer bold line is a statement
_MOST_WORDS_OF_KEY = 2  # a shorter string in JSON is no statement
_LEAST_NAMES, _MOST_WORDS_BETWEEN = 3, 4  # names on one line, words between its commas


@dataclass(frozen=True, slots=True)
class _Found:
    """A part of an answer that has not been judged."""

    text: str
    is_whole: bool = True
    question: str = ""
    is_heading: bool = False
    is_item: bool = False


def parse_answer(text: str, finish_reason: str, asked: Asked) -> tuple[Parsed, ...]:
    """The inferences in an answer, in their order; one with the reason, if there are none.

    `finish_reason` is "stop" where the model ended by itself. Whether another answer says the same is found elsewhere.
    """
    is_cut = finish_reason != "stop"
    body, is_thinking = without_thoughts(text)
    if is_thinking:
        return (Parsed(on_one_line(body), UNFINISHED),)
    reasoning, body, has_mark = _split_reasoning(body, asked.answer_after)
    found = _READERS[asked.parser](body, is_cut, asked) if has_mark else []
    judged = [replace(one, reasoning=reasoning) for one in _judged(found, asked)]
    return tuple(judged) or (Parsed(on_one_line(body), _reason(body, is_cut, asked), reasoning),)


def _reason(body: str, is_cut: bool, asked: Asked) -> str:
    """Why there is no inference in an answer."""
    folded = fold(body)
    if is_cut:
        return UNFINISHED
    if not folded:
        return EMPTY
    return NOTHING if folded == "[]" or says_nothing(folded, fold(asked.nothing)) else UNPARSED


def _split_reasoning(body: str, mark: str) -> tuple[str, str, bool]:
    """What precedes the last mark, on one line and with it, and what follows; without the mark all is the answer."""
    if not mark:
        return "", body, True
    parts = map(re.escape, mark.split())
    pattern = ("\\s+" if mark[0].isspace() else "") + "\\s+".join(parts) + ("\\s+" if mark[-1].isspace() else "")
    places = list(re.finditer(pattern, body.strip())) or list(re.finditer(pattern, body.strip(), re.IGNORECASE))
    if not places:
        return "", body, False
    before, answer = body.strip()[: places[-1].start()], body.strip()[places[-1].end() :]
    return on_one_line(before) + (" " if before[-1:].isspace() else "") + mark, answer, True


# ---- readers: the parts of an answer


def _read_statement(body: str, is_cut: bool, asked: Asked) -> list[_Found]:
    """The first statement: a line, with those that continue it."""
    if (values := _read_values(body)) is not None:
        return values[:1]
    lines = read_lines(body, is_cut=is_cut, language=asked.language, kind=FIRST)
    if not lines:
        return []
    start = next((at for at, line in enumerate(lines) if not line.heading), 0)
    text, is_whole = lines[start].text, lines[start].is_whole
    for line in lines[start + 1 :]:
        if line.marker or line.gap or line.heading or text.rstrip(QUOTES)[-1:] in set(ENDS):
            break
        text, is_whole = f"{text} {line.text}", line.is_whole
    return [_Found(on_one_line(text), is_whole, is_heading=lines[start].heading)]


def _read_statements(body: str, is_cut: bool, asked: Asked) -> list[_Found]:
    if (values := _read_values(body)) is not None:
        return values
    lines = read_lines(body, is_cut=is_cut, language=asked.language)
    found: list[_Found] = []
    for place, line in enumerate(lines):
        is_parent = line.heading and place + 1 < len(lines) and lines[place + 1].depth > line.depth
        if is_parent or (line.heading and not line.marker and len(lines) > 1):
            continue
        text = on_one_line(line.text)
        if line.follows and found and not lines[place - 1].heading:
            found[-1] = _Found(f"{found[-1].text} {text}", line.is_whole)
        else:
            found.append(_Found(text, line.is_whole, is_heading=line.heading))
    return found


def _read_values(body: str) -> list[_Found] | None:
    """The values in JSON that have several words; None if there is no JSON."""
    if not has_objects(body):
        return None
    values = (_Found(on_one_line(value.text), value.is_whole) for value in values_of(body))
    return [value for value in values if count_words(value.text) > _MOST_WORDS_OF_KEY]


def _read_questions(body: str, is_cut: bool, asked: Asked) -> list[_Found]:
    pairs = read_pairs(body, is_cut=is_cut, language=asked.language)
    return [_Found(on_one_line(pair.answer), pair.is_whole, on_one_line(pair.question)) for pair in pairs]


def _read_text(body: str, is_cut: bool, asked: Asked) -> list[_Found]:
    text, is_whole = read_document(body, is_cut=is_cut)
    return [_Found(text, is_whole)] if text or not is_whole else []


def _read_names(body: str, is_cut: bool, asked: Asked) -> list[_Found]:
    if has_objects(body) and (values := list(values_of(body))):
        return [_Found(on_one_line(value.text), value.is_whole) for value in values]
    lines = read_lines(body, is_cut=is_cut, language=asked.language)
    lines = [line for line, below in zip(lines, [*lines[1:], None], strict=False) if not _is_title(line, below)]
    if len(lines) == 1 and (names := _names_on(on_one_line(lines[0].text))):
        return [_Found(name, lines[0].is_whole or at + 1 < len(names)) for at, name in enumerate(names)]
    found: list[_Found] = []
    top = lines[0] if lines else None
    for place, line in enumerate(lines):
        text = on_one_line(line.text)
        if found and top and _is_below(line, lines[place - 1], top):
            name = found[-1].text
            between = " " if name[-1] in ".:!?;" else "; " if ": " in name else ": "
            found[-1] = replace(found[-1], text=f"{name}{between}{text}", is_whole=line.is_whole)
        else:
            found.append(_Found(text, line.is_whole, is_item=line.marker is not None))
            top = line
    return found


def _names_on(text: str) -> list[str]:
    """The names on a line that lists several short ones, as in "Key concepts: lamp, keeper and light"; else none."""
    head, _, rest = text.partition(": ")
    names = list(map(str.strip, _COMMAS.split((rest if rest and names_answer(fold(head)) else text).rstrip("."))))
    is_list = len(names) >= _LEAST_NAMES and all(0 < count_words(name) <= _MOST_WORDS_BETWEEN for name in names)
    is_bare = not any(map(list_marker, names)) and names == [without_label(name) for name in names]
    return names if is_list and is_bare else []


def _is_title(line: Line, below: Line | None) -> bool:
    """Whether a line with a colon stands above names, and is none."""
    if below is None or line.marker is not None or line.text[-1] not in ":：":
        return False
    return below.marker is not None or ": " in below.text


def _is_below(line: Line, above: Line, top: Line) -> bool:
    """Whether a line says more about the name `top`: it is indented below it, or follows it without a marker."""
    if line.follows or (line.depth > top.depth and line.marker is not None and top.marker is not None):
        return True
    return (
        line.marker is None
        and not line.heading
        and ((above is top and top.heading) or (top.marker is not None and not line.gap))
    )


_READERS = {
    "statement": _read_statement,
    "statements": _read_statements,
    "questions": _read_questions,
    "text": _read_text,
    "names": _read_names,
}


# ---- verdicts


def _judged(found: Sequence[_Found], asked: Asked) -> Iterator[Parsed]:
    """What was found, each with its verdict."""
    judge = Judge(asked)
    wholes = [f"{one.question} {one.text}".strip() for one in found]
    foreign = judge.are_in_other_language(wholes)
    seen = set[tuple[str, str]]()
    for one, whole, is_foreign in zip(found, wholes, foreign, strict=True):
        folded = fold(one.question), fold(one.text)
        verdict = _flaw(one, asked, judge)
        if not verdict:
            if folded in seen:
                verdict = REPEATED
            elif judge.is_from_example(whole):
                verdict = EXAMPLE
            else:
                verdict = LANGUAGE if is_foreign else KEPT
        if verdict == KEPT:
            seen.add(folded)
        yield Parsed(one.text, verdict, question=one.question)


def _flaw(one: _Found, asked: Asked, judge: Judge) -> str:
    """Why a part of an answer is none of what was asked for, "" if it is."""
    if not one.is_whole:
        return UNFINISHED
    folded = fold(one.text)
    if asked.parser == "questions":
        is_open = one.question[-1:] in {":", "："}
        return UNPARSED if is_open else _flaw_of_pair(fold(one.question), folded, asked, judge)
    if not folded:
        return EMPTY
    if says_nothing(folded, fold(asked.nothing)) and count_words(one.text) <= _MOST_WORDS_OF_NOTHING:
        return NOTHING
    if repeats_itself(one.text):
        return REPEATED
    if asked.parser == "names":
        return "" if _is_name(one) and not is_talk(folded) else UNPARSED
    if asked.parser == "text":
        speaks = is_talk(folded) or begins_with_talk(folded, judge.words)
        if speaks or count_words(one.text) < _LEAST_WORDS_OF_TEXT or not _LETTER.search(one.text):
            return UNPARSED
        return COPIED if judge.copied_share(one.text) > _MOST_COPIED else ""
    if not judge.is_statement(one.text) or (one.is_heading and count_words(one.text) <= _MOST_WORDS_OF_HEADING):
        return UNPARSED
    return COPIED if judge.is_copy(one.text) else ""


def _flaw_of_pair(question: str, answer: str, asked: Asked, judge: Judge) -> str:
    if not _LETTER.search(question) or not any(map(str.isalnum, answer)) or question == answer or is_talk(answer):
        return UNPARSED
    if refers_to_text(question, judge.words) or refers_to_text(answer, judge.words):
        return REFERS
    return UNPARSED if says_nothing(answer, fold(asked.nothing)) else ""


def _is_name(one: _Found) -> bool:
    """Whether a line is short, or short before its colon. The item of a list may be a sentence."""
    most = _MOST_WORDS_OF_ITEM if one.is_item else _MOST_WORDS_OF_NAME
    parts = _COLON.split(one.text, maxsplit=1)
    return count_words(parts[0]) <= most and _LETTER.search(parts[-1]) is not None
