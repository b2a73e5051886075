"""Pairs of question and answer in an answer. Pure.

Known forms: lines that begin with "Q:" and "A:", or such words of other languages, numbered or bold; a question with
what follows its question mark, on the same line or on the next; questions first and answers behind, by number; JSON
objects; questions with lettered options.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from augment_service.answers.folding import fold
from augment_service.answers.lines import PAIRS, Line, read_lines
from augment_service.answers.markup import LETTER, NUMBER, list_marker, plain
from augment_service.answers.objects import has_objects, values_of

_QUESTION_WORDS = (
    "question|frage|pregunta|domanda|pergunta|vraag|вопрос|питання|问题|問題|问|問|質問|سؤال|س|soru|pytanie|q"
)
_ANSWER_WORDS = (
    "(?:short |correct )?answer|antwort|réponse|reponse|respuesta|risposta|resposta|antwoord|ответ|відповідь|答案|回答|"
    "答え|答|الإجابة|إجابة|جواب|ج|cevap|odpowiedź|a"
)
_LABEL = re.compile(
    rf"(?:(?P<question>{_QUESTION_WORDS})|(?P<answer>{_ANSWER_WORDS}))\s*(?:[#(]*(?P<number>\d{{1,3}})\)?)?\s*(?:\*\*|__)?"
    r"(?P<mark>\s*[:：]|[.)](?=\s)|\s*[-–](?=\s))\s*(?:\*\*|__)?\s*",
    re.I,
)
_INLINE_ANSWER = re.compile(
    rf"\s+(?:[-–—|/;]\s*)?[(\[]?(?:\*\*|__)?(?:{_ANSWER_WORDS})\s*\d{{0,3}}(?:\*\*|__)?\s*[:：]\s*(?:\*\*|__)?\s*", re.I
)
_MARK = re.compile(r"[?？؟][\"'”’»)\]*_]*(?=\s|\Z|[\u3000-\u9fff])")
_NEXT_QUESTION = re.compile(rf"(?<=[.!?\"”’)])\s+(?=(?:\*\*)?(?:{_QUESTION_WORDS})\s*\d{{0,3}}\s*[:：]\s)", re.I)
_PLACEHOLDER = re.compile(r"(?:the |your )?(?:questions?|answers?)(?: here)?|\W*\d*\W*")
_BEGUN_LABEL = re.compile(r"(?:q(?:uestion)?|a(?:nswer)?)\s*\d{0,3}", re.I)
_NO_OPTION = re.compile(r"the (?:correct |right )?(?:answer|option) is:? \(?[a-h]\)?", re.I)
_ARROW = re.compile(r"\s*(?:[-–—:=]+>?|→)?\s*")
_OPTION = re.compile(r"\(?([A-Ha-h])[.)]?(?:\s+(.*))?\Z")
_SECTION = re.compile(
    r"(?:(?:the|short|correct) )*(?:(?P<question>questions?|fragen)|(?P<answer>answers?(?: key)?|antworten)):?",
    re.I,
)
_KEYS = {"question": True, "q": True, "frage": True, "answer": False, "a": False, "antwort": False}
_LEAST_LETTERS = 3  # of a word that may be a label without a colon or a number


@dataclass(slots=True)
class Pair:
    """A question and its answer, "" where there is none; `is_whole` is false if the answer was cut in it."""

    question: str
    answer: str = ""
    is_whole: bool = True
    number: int = 0
    options: dict[str, str] = field(default_factory=dict)


def read_pairs(body: str, *, is_cut: bool, language: str = "") -> list[Pair]:
    """The pairs in an answer, in the order of their questions.

    An answer that names an option that is not there, or that is a question itself, is none.
    """
    if has_objects(body) and (found := list(_pairs_of_objects(body))):
        return found
    reader = _Reader()
    for line in read_lines(body, is_cut=is_cut, language=language, kind=PAIRS):
        for part in _NEXT_QUESTION.split(line.text):
            reader.add(line if part == line.text else replace(line, text=part, gap=False))
    pairs = [pair for pair in reader.pairs if not _PLACEHOLDER.fullmatch(fold(pair.question))]
    for pair in pairs:
        folded = fold(pair.answer)
        is_none = _NO_OPTION.fullmatch(folded) or folded in {"the answer", "your answer", "answer"}
        if is_none or pair.answer[-1:] in {"?", "？", ":", "："}:
            pair.answer = ""
    if is_cut and pairs and not pairs[-1].answer:
        pairs[-1].is_whole = False
    return pairs


def _pairs_of_objects(body: str) -> Iterator[Pair]:
    pair: Pair | None = None
    for value in values_of(body):
        is_question = _KEYS.get(value.key.strip().lower())
        text = " ".join(value.text.split())
        if is_question:
            if pair:
                yield pair
            pair = Pair(text, is_whole=value.is_whole)
        elif is_question is not None and pair and not pair.answer:
            pair.answer, pair.is_whole = text, value.is_whole
    if pair:
        yield pair


class _Reader:
    """Collects pairs line by line."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self._in_answers = False
        self._num_answers = 0

    def add(self, line: Line) -> None:
        """Take the next line."""
        section = _SECTION.fullmatch(line.text)
        if section and (section["answer"] is None or self._has_open(2)):
            self._in_answers = section["answer"] is not None
            return
        if not line.is_whole and _BEGUN_LABEL.fullmatch(line.text):
            return
        found = _label(line.text)
        if found and found["question"]:
            self._ask(line, line.text[found.end() :])
        elif found and self.pairs:
            self._answer(line, line.text[found.end() :], int(found["number"] or 0), is_new=True)
        elif self._in_answers and line.marker:
            self._num_answers += 1
            self._answer(line, line.text, line.marker.number or self._num_answers, is_new=True)
        elif self.pairs and not self.pairs[-1].question:
            self._ask(line, line.text)
        elif self._is_option(line):
            self._option(line)
        elif _MARK.search(line.text) and not self._continues(line):
            self._ask(line, line.text)
        elif self.pairs and (line.follows or not line.gap or self.pairs[-1].answer or not self._has_open(2)):
            self._answer(line, line.text, 0, is_new=False)

    def _has_open(self, least: int) -> bool:
        """Whether so many of the last questions have no answer."""
        return len(self.pairs) >= least and not any(pair.answer for pair in self.pairs[-least:])

    def _continues(self, line: Line) -> bool:
        """Whether a line with a question mark within it belongs to the answer before it."""
        return bool(self.pairs and self.pairs[-1].answer) and line.marker is None and not _MARK.search(line.text[-3:])

    def _ask(self, line: Line, text: str) -> None:
        text = plain(text)
        marker = list_marker(text)
        text = plain(marker.rest) if marker and marker.kind == NUMBER else text
        inline = _INLINE_ANSWER.search(text)
        mark = _MARK.search(text)
        question, answer = text, ""
        if inline:
            question, answer = text[: inline.start()], text[inline.end() :]
        elif mark and mark.end() < len(text):
            rest = _ARROW.sub("", text[mark.end() :], count=1)
            if not _MARK.search(rest):
                question, answer = text[: mark.end()], rest
        number = line.marker.number if line.marker else 0
        pair = Pair(plain(question), _bare(answer), line.is_whole, number)
        last = self.pairs[-1] if self.pairs else None
        if (
            last
            and not last.answer
            and (_PLACEHOLDER.fullmatch(last.question) or fold(last.question) == fold(question))
        ):
            self.pairs.pop()
        self.pairs.append(pair)

    def _answer(self, line: Line, text: str, number: int, *, is_new: bool) -> None:
        pair = self.pairs[-1]
        if self._in_answers and number:
            numbered = (one for one in self.pairs if one.number == number)
            pair = next(numbered, self.pairs[min(number, len(self.pairs)) - 1])
        if pair.answer and (is_new or line.gap or line.heading):
            return
        text = _bare(text)
        if pair.options and (option := _OPTION.match(text)):
            text = option[2] or pair.options.get(option[1].lower(), text)
        pair.answer = f"{pair.answer} {text}".strip()
        pair.is_whole = line.is_whole

    def _is_option(self, line: Line) -> bool:
        if not self.pairs or self.pairs[-1].answer:
            return False
        marker = line.marker or list_marker(line.text)
        return marker is not None and marker.kind == LETTER and marker.letter[0].lower() in "abcdefgh"

    def _option(self, line: Line) -> None:
        if marker := line.marker or list_marker(line.text):
            self.pairs[-1].options[marker.letter[0].lower()] = plain(marker.rest)


def _bare(answer: str) -> str:
    """An answer without markup, and without brackets around it."""
    answer = plain(answer)
    is_bracketed = answer[:1] == "(" and answer[-1:] == ")" and ")" not in answer[:-1]
    return answer[1:-1] if is_bracketed else answer


def _label(text: str) -> re.Match[str] | None:
    """The label with which a line begins: "Q:", "Answer 2 -", but not "A. Pell"."""
    found = _LABEL.match(text)
    if not found:
        return None
    word = found["question"] or found["answer"]
    is_sure = found["mark"].strip() in {":", "："} or found["number"] or len(word) >= _LEAST_LETTERS
    return found if is_sure else None
