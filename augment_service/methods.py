"""Augmentation methods, pure: a document to prompts, what the model wrote to inferences.

Local methods see one sentence at a time, global ones the whole corpus (Lampinen et al. 2025, section 2.3). A method is
a template of the model's prompt book.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from augment_service.chat import NO_FRAME, Frame
from data.records import Augmentation, Context, Document, Generation, Prompt
from data.rendering import Template
from data.seeds import derive_seed, fingerprint
from data.sentences import split_sentences

KEPT = "kept"
NOTHING = "nothing follows"
UNFINISHED = "unfinished"
EMPTY = "empty"
COPIED = "copied"
REPEATED = "repeated"
UNPARSED = "unparsed"
_BULLET = re.compile(r"^(?:[-*•–]|\(?\d{1,3}[.)])\s+")
_THOUGHT = "</think>"
_EDGES = " \t\"'“”‘’«»`*.,;:!?"


@dataclass(frozen=True)
class AugmentPlan:
    """What to ask for: `methods` by name, `samples` generations of each sentence, sampling temperature, seed."""

    methods: tuple[str, ...]
    samples: int
    temperature: float
    seed: int


def build_prompts(
    document: Document,
    template: Template,
    plan: AugmentPlan,
    model: str,
    shared: Context | None,
    frame: Frame = NO_FRAME,
) -> Iterator[Prompt]:
    """The prompts of one document: one for each sentence and sample. `shared` is the context of a global template.

    `prompt_id` names everything that is asked: text, context, sampling, seed, weights, template and place.
    """
    for place, sentence in enumerate(split_sentences(document.text, document.outline)):
        context = template.local_context(sentence, document.heading) if shared is None else shared.text
        context_id = fingerprint("context", context) if shared is None else shared.context_id
        text = template.prompt(sentence, document.heading)
        for sample in range(plan.samples):
            where = (template.method, document.corpus, document.doc_id, place, sample)
            seed = derive_seed(plan.seed, *where)
            asked = (context_id, text, template.fingerprint, plan.temperature, seed, model, *filter(None, frame))
            yield Prompt(
                prompt_id=fingerprint(*where, *asked),
                method=template.method,
                doc_id=document.doc_id,
                context=context,
                text=text,
                max_tokens=template.max_tokens,
                temperature=plan.temperature,
                seed=seed,
                stop=template.stop,
                sentence=sentence,
                context_id=context_id,
                before=frame.before,
                after=frame.after,
            )


def parse_generation(
    prompt: Prompt, generation: Generation, corpus: str, template: Template, nothing: str, model: str
) -> Augmentation:
    """The inference in what the model wrote; a rejected one has the reason in `verdict`.

    Whether another row of the corpus says the same is found when the folder is sealed.
    """
    reasoning, text, is_parsed = split_answer(generation.text, template)
    return Augmentation(
        augmentation_id=prompt.prompt_id,
        corpus=corpus,
        method=prompt.method,
        sources=(prompt.doc_id,),
        sentence=prompt.sentence,
        text=text,
        reasoning=reasoning,
        verdict=_judge(text, generation.finish_reason, prompt.sentence, nothing, is_parsed=is_parsed),
        support=math.nan,
        finish_reason=generation.finish_reason,
        model=model,
        template=template.fingerprint,
        context_id=prompt.context_id,
        temperature=prompt.temperature,
        seed=prompt.seed,
    )


def split_answer(text: str, template: Template) -> tuple[str, str, bool]:
    """What a model wrote, on one line: its reasoning, where the template asks for it, and the inference.

    The last value is false if the mark between the two is missing; then there is no reasoning. What a chat model has
    thought is no part of it.
    """
    text = text.rpartition(_THOUGHT)[2]
    line = _BULLET.sub("", " ".join(text.split()))
    if not template.answer_after:
        return "", line, True
    reasoning, mark, answer = line.rpartition(template.answer_after)
    return reasoning + mark, answer, bool(mark)


def fold(text: str) -> str:
    """A line without case, and without quotes and marks at its ends."""
    return text.strip(_EDGES).lower()


def fold_column(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """`fold` of every text."""
    return pc.utf8_lower(pc.utf8_trim(texts, characters=_EDGES))


def _judge(text: str, finish_reason: str, sentence: str, nothing: str, *, is_parsed: bool) -> str:
    if finish_reason != "stop":
        return UNFINISHED
    folded = fold(text)
    if not folded:
        return EMPTY
    if folded == fold(nothing):
        return NOTHING
    if not is_parsed:
        return UNPARSED
    return COPIED if folded == fold(sentence) else KEPT
