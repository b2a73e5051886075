"""Questions that a model writes: with answer and evidence about a passage, or a statement that is turned around.

Reads `Passage` rows in the actor, and asks the engine. What cannot be used is a draft, too, with the reason.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, ClassVar

from augment_service.answers.verdicts import KEPT, Asked
from augment_service.chat import Frame
from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer
from augment_service.methods import AugmentPlan, Target, build_prompts
from augment_service.parsing import parse_answer
from augment_service.questions.answers import Span, kind_of
from augment_service.questions.cloze import reversal
from augment_service.questions.drafts import BUNDLE, REVERSAL, Draft, Passage
from data.corpora.languages import language_name
from data.facts import TRAIN, Fact, Shares, fold, most_held_out, name_fact, words_of
from data.records import Document, Generation, Prompt, Refusal
from data.rendering import DOCUMENT, DOCUMENTS, HEADING, LANGUAGE, SENTENCE, SUBJECT, Check, Template
from data.seeds import fingerprint

VERSION = 1  # of prompts and parsing: raise it when the same passage would give other drafts
UNREAD = "the answer of the model could not be read"
NO_EVIDENCE = "its evidence is not in the text"
NOT_IN_EVIDENCE = "its evidence does not have the answer"
NAMES_ANSWER = "the question names its answer"
LONG = "the answer is too long"
ONE_DOCUMENT = "one of its documents is enough"
TRAINING_ONLY = "its facts are for training only"
_MOST_WORDS = 6  # of an answer
_NEARLY = 0.8  # of evidence and sentence are the same
_LABELLED = re.compile(
    r"^[\W\d_]*(q(?:uestion)?|a(?:nswer)?|e(?:vidence)?)\s*\d*[*_.)]*\s*[:：][*_]*\s*(.*)$", re.IGNORECASE
)


@dataclass(frozen=True)
class WriteTask:
    """Passages to drafts by one template. `frame` is the chat template around each prompt, `model` the fingerprint."""

    template: Template
    check: Check
    nothing: str
    shares: Shares
    temperature: float
    seed: int
    model: str
    frame: Frame

    asked: ClassVar[type] = Passage
    answered: ClassVar[type] = Draft

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """One prompt for each passage."""
        prompts = [self._prompt(row) for row in rows]

        def on_answer(at: int, answer: Generation | Refusal) -> None:
            if isinstance(answer, Refusal):
                on_row(at, RowAnswer((), (answer,)))
            else:
                on_row(at, RowAnswer(tuple(self._drafts(rows[at], answer))))

        engine.generate(prompts, on_answer)

    @property
    def key(self) -> str:
        """Names all that decides the drafts, but for the passages."""
        asked = (self.temperature, self.seed, self.nothing, self.model, self.check.question, self.shares)
        return fingerprint("questions", VERSION, self.template.fingerprint, *asked, *filter(None, self.frame))

    def _prompt(self, row: Passage) -> Prompt:
        document = Document(row.passage_id, row.text, row.corpus, row.heading, row.language)
        fields = {
            HEADING: row.heading,
            LANGUAGE: language_name(row.language) or "English",
            DOCUMENT: row.text,
            DOCUMENTS: row.text,
            SENTENCE: row.sentences[0],
            SUBJECT: row.subject,
        }
        target = Target(0, fields, row.text, row.owners)
        plan = AugmentPlan((), 1, self.temperature, self.seed)
        (prompt,) = build_prompts(document, target, self.template, plan, self.model, self.frame)
        return prompt

    def _drafts(self, row: Passage, answer: Generation) -> Iterator[Draft]:
        if row.writer != REVERSAL:
            found = list(parse_asked(answer.text))
            drafts = [self._checked(row, *one) for one in found]
            yield from dict.fromkeys(drafts or [self._dropped(row, answer.text, "", UNREAD)])
            return
        fact = self._fact(row, row.sentences[0], row.owners[0])
        subject = Span(0, len(row.subject), row.subject, row.kind, row.classes)
        asked = Asked(
            parser=self.template.reader,
            source=row.sentences[0],
            nothing=self.nothing,
            examples=self.template.examples,
            answer_after=self.template.answer_after,
            language=row.language,
        )
        for parsed in parse_answer(answer.text, answer.finish_reason, asked):
            draft = reversal(fact, row.text, parsed.text, subject, None) if parsed.verdict == KEPT else None
            if draft:
                yield draft
                return
        yield self._dropped(row, answer.text, row.subject, UNREAD)

    def _checked(self, row: Passage, question: str, answer: str, evidence: Sequence[str]) -> Draft:
        """The draft of a question, with the reason for which it is dropped, if there is one."""
        places = list(dict.fromkeys(at for one in evidence if (at := find_sentence(one, row.sentences)) is not None))
        prompt = self.check.asked(question)
        if not places or len(places) < len(evidence):
            return self._dropped(row, prompt, answer, NO_EVIDENCE)
        facts = [self._fact(row, row.sentences[at], row.owners[at]) for at in places]
        holding = [fact for fact in facts if _holds(fact.sentence, answer)]
        kind, classes = kind_of(answer)
        first = (holding or facts)[0]
        draft = Draft(
            draft_id=fingerprint(row.writer, row.corpus, first.fact_id, prompt, answer),
            corpus=row.corpus,
            writer=row.writer,
            part=most_held_out(fact.part for fact in facts),
            fact_id=first.fact_id,
            requires=tuple(dict.fromkeys(fact.doc_id for fact in [first, *facts])),
            sentence=" ".join(fact.sentence for fact in facts),
            source=row.text,
            prompt=prompt,
            joiner=" ",
            answer=answer,
            kind=kind,
            classes=classes,
        )
        if len(answer.split()) > _MOST_WORDS:
            return replace(draft, reason=LONG)
        if not holding:
            return replace(draft, reason=NOT_IN_EVIDENCE)
        if row.writer == BUNDLE and len(draft.requires) < 2:
            return replace(draft, reason=ONE_DOCUMENT)
        if fold(answer) in fold(question):
            return replace(draft, reason=NAMES_ANSWER)
        return replace(draft, reason=TRAINING_ONLY) if draft.part == TRAIN else draft

    def _fact(self, row: Passage, sentence: str, owner: str) -> Fact:
        name = name_fact(row.corpus, sentence)
        return Fact(name, row.corpus, owner, sentence, 0, self.shares.part_of(sentence), row.heading)

    def _dropped(self, row: Passage, prompt: str, answer: str, reason: str) -> Draft:
        return Draft(
            draft_id=fingerprint(row.writer, row.passage_id, prompt, answer, reason),
            corpus=row.corpus,
            writer=row.writer,
            part="",
            fact_id="",
            requires=row.owners,
            sentence="",
            source=row.text,
            prompt=prompt,
            joiner=" ",
            answer=answer,
            kind="",
            classes=(),
            reason=reason,
        )


def parse_asked(text: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Questions, answers and evidence in lines with the labels "Question:", "Answer:", "Evidence:", or Q, A, E.

    Evidence may have several lines, each a sentence; a question without all three is left out.
    """
    question, answer, evidence = "", "", list[str]()
    label = ""
    for line in [*text.rpartition("</think>")[2].splitlines(), "Q:"]:
        found = _LABELLED.match(line)
        content = (found[2] if found else line).strip()
        label = found[1][0].lower() if found else label
        if found and label == "q":
            if question and answer and evidence:
                yield question, answer, tuple(evidence)
            question, answer, evidence = content, "", []
        elif label == "a" and content:
            answer = answer or content.strip(" .\"'“”*")
        elif label == "e" and content:
            evidence.append(content.strip(' "“”*'))


def find_sentence(evidence: str, sentences: Sequence[str]) -> int | None:
    """Which sentence a quotation is, verbatim or nearly; None if it is none of them."""
    folded = fold(evidence)
    if not folded:
        return None
    for at, sentence in enumerate(sentences):
        other = fold(sentence)
        if folded == other or (len(words_of(evidence)) > 3 and (folded in other or other in folded)):
            return at
    ratios = [SequenceMatcher(None, folded, fold(sentence), autojunk=False).ratio() for sentence in sentences]
    best = max(range(len(ratios)), key=ratios.__getitem__, default=None)
    return best if best is not None and ratios[best] >= _NEARLY else None


def _holds(sentence: str, answer: str) -> bool:
    return bool(fold(answer)) and fold(answer) in fold(sentence)


def count_reasons(drafts: Sequence[Draft]) -> Mapping[str, int]:
    """How many drafts have each reason."""
    counts: dict[str, int] = {}
    for draft in drafts:
        counts[draft.reason] = counts.get(draft.reason, 0) + 1
    return counts
