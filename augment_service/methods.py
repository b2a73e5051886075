"""Augmentation methods, pure: a document to targets, targets to prompts, what the model wrote to inferences.

Local methods see one sentence at a time, global ones documents of the corpus (Lampinen et al. 2025, section 2.3). A
method is a template of the model's prompt book; `data.rendering.FAMILIES` says what its prompts are about.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from augment_service.answers.judging import is_fragment
from augment_service.answers.verdicts import KEPT, Asked
from augment_service.chat import NO_FRAME, Frame
from augment_service.parsing import parse_answer
from data.corpora.languages import language_name
from data.records import Augmentation, Context, Document, Generation, Prompt
from data.rendering import DOCUMENT, HEADING, LANGUAGE, SENTENCE, Template
from data.seeds import derive_seed, fingerprint
from data.sentences import split_sentences

VERSION = 3  # of prompts and parsing: raise it when the same request would give other rows
PROPOSED = "proposed"  # the verdict of what other prompts are asked with
NO_CONTEXT = Context("", "", ())
Form = Literal["text", "chat"]


@dataclass(frozen=True)
class AugmentPlan:
    """What to ask for: `methods` by name, `samples` generations of each target, sampling temperature, seed.

    `per_document` is how many groups of entities, strategies or questions each document is asked about. A document that
    is longer than the window becomes several targets ("cut") or none ("skip").
    """

    methods: tuple[str, ...]
    samples: int
    temperature: float
    seed: int
    per_document: int = 4
    long_documents: Literal["cut", "skip"] = "cut"


@dataclass(frozen=True, slots=True)
class Target:
    """What a prompt is about: a sentence, a document or the `span` of it, or what `about` names in it.

    `source` is the text that answers are compared with. `context` precedes the prompt, {documents} of the template.
    """

    place: int
    fields: Mapping[str, str]
    source: str
    sources: tuple[str, ...]
    sentence: str = ""
    about: tuple[str, ...] = ()
    span: tuple[int, ...] = ()
    context: Context = NO_CONTEXT


def sentence_targets(document: Document) -> Iterator[Target]:
    """A target for each sentence that may state something."""
    fields = document_fields(document) | {DOCUMENT: document.text}
    for place, sentence in enumerate(split_sentences(document.text, document.outline)):
        if is_fragment(sentence):  # "After:"
            continue
        yield Target(place, {**fields, SENTENCE: sentence}, sentence, (document.doc_id,), sentence)


def document_targets(document: Document, spans: Sequence[tuple[int, int]]) -> Iterator[Target]:
    """A target for each span of the document."""
    for place, (start, stop) in enumerate(spans):
        text = document.text[start:stop].strip()
        span = () if (start, stop) == (0, len(document.text)) else (start, stop)
        yield Target(place, document_fields(document) | {DOCUMENT: text}, text, (document.doc_id,), span=span)


def document_fields(document: Document) -> dict[str, str]:
    """What prompts about any part of a document are filled with."""
    return {HEADING: document.heading, LANGUAGE: language_name(document.language) or "English"}


def build_prompts(
    document: Document,
    target: Target,
    template: Template,
    plan: AugmentPlan,
    model: str,
    frame: Frame = NO_FRAME,
) -> Iterator[Prompt]:
    """The prompts about a target of the document, one for each sample.

    `prompt_id` names everything that is asked: text, context, sampling, seed, weights, template and place.
    """
    context, context_id = target.context.text, target.context.context_id
    if target.context is NO_CONTEXT:
        context = template.own_context(target.fields)
        context_id = fingerprint("context", context)
    text = template.prompt(target.fields)
    for sample in range(1 if template.is_proposal else plan.samples):
        where = place_of(template, document, target.place, target.about, sample)
        seed = derive_seed(plan.seed, *where)
        asked = (context_id, text, template.fingerprint, plan.temperature, seed, model)
        yield Prompt(
            prompt_id=name_prompt(where, asked, frame),
            method=template.method,
            doc_id=document.doc_id,
            context=context,
            text=text,
            max_tokens=template.max_tokens,
            temperature=plan.temperature,
            seed=seed,
            stop=template.stop,
            sentence=target.sentence,
            context_id=context_id,
            before=frame.before,
            after=frame.after,
        )


def place_of(
    template: Template, document: Document, place: int, about: Sequence[str], sample: int
) -> tuple[str | int, ...]:
    """Names one of the samples about one target of a document."""
    return (template.method, document.corpus, document.doc_id, place, *about, sample)


def name_prompt(where: Sequence[str | int], asked: Sequence[object], frame: Frame) -> str:
    """The id of a prompt: `where` as `place_of`; context's id, text, template, temperature, seed and model; frame."""
    return fingerprint(*where, *asked, VERSION, *filter(None, frame))


def parse_generation(
    prompt: Prompt, generation: Generation, document: Document, target: Target, template: Template, *, nothing: str,
    model: str,
) -> tuple[Augmentation, ...]:  # fmt: skip
    """The inferences in what the model wrote, at least one row; a rejected one has the reason in `verdict`.

    Whether another row of the corpus says the same is found when the folder is sealed.
    """
    asked = Asked(
        parser=template.reader,
        source=target.source,
        nothing=nothing,
        examples=template.examples,
        answer_after=template.answer_after,
        language=document.language,
    )
    rows = []
    for place, found in enumerate(parse_answer(generation.text, generation.finish_reason, asked)):
        kept = PROPOSED if template.is_proposal and found.verdict == KEPT else found.verdict
        training_prompt, text, form = _training_row(found.question, found.text, template)
        rows.append(
            Augmentation(
                augmentation_id=fingerprint(prompt.prompt_id, place),
                corpus=document.corpus,
                method=prompt.method,
                sources=target.sources,
                sentence=target.sentence,
                text=text,
                reasoning=found.reasoning,
                verdict=kept,
                support=math.nan,
                finish_reason=generation.finish_reason,
                model=model,
                template=template.fingerprint,
                context_id=prompt.context_id,
                temperature=prompt.temperature,
                seed=prompt.seed,
                prompt_id=prompt.prompt_id,
                place=place,
                about=target.about,
                span=target.span,
                prompt=training_prompt,
                form=form,
                tokens=() if place else (generation.num_read, generation.num_tokens),
            )
        )
    return tuple(rows)


def _training_row(question: str, text: str, template: Template) -> tuple[str, str, Form]:
    """What precedes the training text, the text, and its form."""
    if not question:
        return "", text, "text"
    return ("", template.training_text(question, text), "text") if template.row else (question, text, "chat")
