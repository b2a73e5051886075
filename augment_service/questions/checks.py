"""Whether a question is kept, by likelihood: with its source in context, without it, and from the options alone.

The tasks run in the actors; `judge` is pure.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from augment_service.engines.protocol import Engine
from augment_service.jobs import OnRow, RowAnswer
from augment_service.questions.drafts import KNOWN, Answer, Draft, Margins
from data.facts import fold, words_of
from data.records import Refusal, Score, ScoreItem
from data.rendering import Check
from data.seeds import fingerprint, stream

NOT_WITH_SOURCE = "not right with its source in context"
ALONE = "right from the options alone"
REFUSED = "the model cannot read it"
DUPLICATE = "nearly the same as another question"
_SAME = 0.75  # of the words of two questions with the same answer


@dataclass(frozen=True)
class PriorTask:
    """The log-likelihood of answers in a neutral frame."""

    check: Check

    asked: ClassVar[type] = Answer
    answered: ClassVar[type] = Score

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """One score for each answer."""
        items = [ScoreItem(row.answer_id, "", self.check.neutral, (row.text,), joiner=row.joiner) for row in rows]
        engine.score(items, lambda at, answer: on_row(at, RowAnswer.of(answer)))


@dataclass(frozen=True)
class CheckTask:
    """Drafts with options to margins. `icl` is the text around a source in context, in two parts.

    The options alone are listed in `shuffles` orders.
    """

    check: Check
    icl: tuple[str, str]
    shuffles: int
    seed: int

    asked: ClassVar[type] = Draft
    answered: ClassVar[type] = Margins

    @property
    def key(self) -> str:
        """Names all that decides the margins, but for the drafts and the weights."""
        return fingerprint("check", self.check.choose, *self.icl, self.shuffles, self.seed)

    def compute(self, engine: Engine, rows: Sequence[Any], on_row: OnRow) -> None:
        """All requests of all rows at once; a row with a refused request is refused."""
        asked = [(at, item) for at, row in enumerate(rows) for item in self.items(row)]
        left = [self.num_requests] * len(rows)
        found: dict[int, dict[str, Score | Refusal]] = defaultdict(dict)

        def on_answer(number: int, answer: Score | Refusal) -> None:
            at, item = asked[number]
            found[at][item.item_id] = answer
            left[at] -= 1
            if not left[at]:
                on_row(at, RowAnswer.of(self._margins(rows[at], found.pop(at))))

        engine.score([item for _, item in asked], on_answer)

    @property
    def num_requests(self) -> int:
        """Score requests for each draft."""
        return 2 + self.shuffles

    def items(self, draft: Draft) -> Iterator[ScoreItem]:
        """What is asked about a draft."""
        before, after = self.icl
        name, options, joiner = draft.draft_id, draft.options, draft.joiner
        yield ScoreItem(f"{name}/source", f"{before}{draft.source}{after}", draft.prompt, options, joiner=joiner)
        yield ScoreItem(f"{name}/closed", "", draft.prompt, options, joiner=joiner)
        for number in range(self.shuffles):
            listed = list(options)
            stream(self.seed, "alone", name, number).shuffle(listed)
            yield ScoreItem(f"{name}/alone{number}", "", self.check.listing(listed), options, joiner=joiner)

    def _margins(self, draft: Draft, answers: dict[str, Score | Refusal]) -> Margins | Refusal:
        leads = {}
        for name, answer in answers.items():
            if isinstance(answer, Refusal):
                return Refusal(draft.draft_id, answer.kind, answer.what, answer.hint)
            leads[name.rpartition("/")[2]] = margin(answer, draft.right)
        alone = min((lead for name, lead in leads.items() if name.startswith("alone")), default=-math.inf)
        return Margins(draft.draft_id, leads["source"], leads["closed"], alone)


def margin(score: Score, right: int) -> float:
    """How far the right option leads, or trails, the best other one (nats)."""
    others = [value for at, value in enumerate(score.log_likelihoods) if at != right]
    return score.log_likelihoods[right] - max(others)


def judge(draft: Draft, margins: Margins | None, least: float) -> Draft:
    """The draft with its margins, and the reason for which it is dropped.

    With its source in context the answer has to lead by `least` nats; from the options alone it may not, in all orders.
    """
    if margins is None:
        return replace(draft, reason=REFUSED)
    draft = replace(draft, source_margin=margins.source, closed_margin=margins.closed, alone_margin=margins.alone)
    if not margins.source >= least:
        return replace(draft, reason=NOT_WITH_SOURCE)
    if margins.alone > 0 and margins.alone >= least:
        return replace(draft, reason=ALONE)
    return draft


def split_of(draft: Draft, least: float) -> str:
    """The split of a question that is kept: `known` if the answer leads by `least` nats without the source, too.

    A smaller lead is as likely luck: among the options one always leads. Were lucky guesses taken out, the base model
    would be below chance on the rest, and any training would seem to help.
    """
    return KNOWN if draft.closed_margin > 0 and draft.closed_margin >= least else draft.part


def without_duplicates(drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts, of which the later of two that are nearly the same is dropped.

    They are if their prompts are equal, or most of their words with the same answer. Of equal prompts with different
    answers none is kept: both answers are right.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for draft in drafts:
        answers[draft.corpus, fold(draft.prompt)].add(fold(draft.answer))
    seen: dict[tuple[str, str], list[set[str]]] = defaultdict(list)
    result = []
    for draft in drafts:
        if draft.reason:
            result.append(draft)
            continue
        words, place = set(words_of(draft.prompt)), (draft.corpus, fold(draft.answer))
        same = any(len(words & other) >= _SAME * len(words | other) for other in seen[place])
        ambiguous = len(answers[draft.corpus, fold(draft.prompt)]) > 1
        if not (same or ambiguous):
            seen[place].append(words)
        result.append(replace(draft, reason=DUPLICATE) if same or ambiguous else draft)
    return result
