"""The records of the question writer: what models are asked about, and questions on their way through the checks."""

import math
from dataclasses import dataclass, field

from data.records import Question

CLOZE, QA, BUNDLE, REVERSAL = "cloze", "qa", "bundle", "reversal"
WRITERS = (CLOZE, QA, BUNDLE, REVERSAL)
KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Passage:
    """What a model is asked to write questions about. Producer: `job`. Consumer: `written.WriteTask`.

    `sentences` are those of the documents `owners` (as many), and `text` is what they stand in. For a reversal the only
    sentence is to be turned around so that it ends with the `subject`.
    """

    passage_id: str
    corpus: str
    writer: str
    text: str
    heading: str
    language: str
    sentences: tuple[str, ...]
    owners: tuple[str, ...]
    subject: str = ""
    kind: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A text whose log-likelihood by itself is asked. Producer: `job`. Consumer: `checks.PriorTask`."""

    answer_id: str
    corpus: str
    text: str
    joiner: str = " "


@dataclass(frozen=True, slots=True)
class Draft:
    """A question on its way. Producers: the writers. Consumers: `distractors`, `checks`, people (in `dropped/`).

    `sentence` is the evidence, `source` the text around it, `answer` what is right, of a `kind` and of `classes` from
    the narrowest to the widest; `anchors` are the names, numbers and rare words of the evidence. `reason` says why it
    was dropped ("" while it is not). `options` are in their final order, `right` is the answer's place there, `priors`
    (nats) are their log-likelihoods in a neutral frame. The margins (nats) are how far the answer leads, or trails, the
    best other option: with the source in context, without it, and from the options alone (the least of all orders).
    """

    draft_id: str
    corpus: str
    writer: str
    part: str
    fact_id: str
    requires: tuple[str, ...]
    sentence: str
    source: str
    prompt: str
    joiner: str
    answer: str
    kind: str
    classes: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    reason: str = ""
    options: tuple[str, ...] = ()
    right: int = 0
    priors: tuple[float, ...] = ()
    source_margin: float = field(default=math.nan)
    closed_margin: float = field(default=math.nan)
    alone_margin: float = field(default=math.nan)

    def question(self, split: str) -> Question:
        """The question of a suite."""
        return Question(
            question_id=self.draft_id,
            corpus=self.corpus,
            split=split,
            inference=self.writer,
            prompt=self.prompt,
            options=self.options,
            answer=self.right,
            fact_id=self.fact_id,
            requires=self.requires,
            joiner=self.joiner,
        )


@dataclass(frozen=True, slots=True)
class Margins:
    """What the model thinks of a draft. Producer: `checks.CheckTask`. Consumer: `checks.judge`. As in `Draft`."""

    draft_id: str
    source: float
    closed: float
    alone: float
