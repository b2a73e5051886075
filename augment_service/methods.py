"""Augmentation methods: documents in, prompts out; generations in, augmentations out. Pure.

Local methods see one sentence at a time, global ones the whole corpus (Lampinen et al. 2025, section 2.3). A method
is a template of the model's prompt book; what they share stands here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.records import Augmentation, Document, Generation, Prompt
from data.rendering import PromptBook, Template, fill_template
from data.seeds import derive_seed, fingerprint
from data.sentences import split_sentences

KEPT = "kept"
NOTHING = "nothing follows"
UNFINISHED = "unfinished"
EMPTY = "empty"
REPEATED = "repeated"


@dataclass(frozen=True)
class AugmentPlan:
    """What to ask for: `methods` by name, `samples` generations of each sentence, sampling temperature, seed."""

    methods: tuple[str, ...]
    samples: int
    temperature: float
    seed: int


def build_prompts(documents: Sequence[Document], book: PromptBook, plan: AugmentPlan) -> list[Prompt]:
    """All prompts of one world; prompts with the same context stand next to each other."""
    texts = [document.text for document in documents]
    prompts = []
    for template in book.select(plan.methods):
        for document in documents:
            for sentence in split_sentences(document.text):
                context, text = fill_template(template, sentence=sentence, documents=texts)
                for sample in range(plan.samples):
                    key = (template.method, document.corpus, document.doc_id, sentence, sample)
                    prompts.append(
                        Prompt(
                            prompt_id=fingerprint(*key),
                            method=template.method,
                            doc_id=document.doc_id,
                            context=context,
                            text=text,
                            max_tokens=template.max_tokens,
                            temperature=plan.temperature,
                            seed=derive_seed(plan.seed, *key),
                            stop=template.stop,
                            sentence=sentence,
                        )
                    )
    return prompts


def parse_generations(
    prompts: Sequence[Prompt],
    generations: Iterable[Generation],
    documents: Sequence[Document],
    book: PromptBook,
    *,
    model: str,
) -> list[Augmentation]:
    """One row for each generation, in the order of the prompts; rows set aside keep their reason in `verdict`.

    A prompt that was refused has no generation, and no row.
    """
    by_id = {generation.prompt_id: generation for generation in generations}
    documents_by_id = {document.doc_id: document for document in documents}
    templates: dict[str, Template] = {template.method: template for template in book.templates}
    seen = {document.text for document in documents}
    rows = []
    for prompt in prompts:
        if prompt.prompt_id not in by_id:
            continue
        generation, document = by_id[prompt.prompt_id], documents_by_id[prompt.doc_id]
        _, text = split_answer(generation.text, templates[prompt.method])
        verdict = _judge(text, generation.finish_reason, seen, book.nothing)
        if verdict == KEPT:
            seen.add(text)
        rows.append(
            Augmentation(
                augmentation_id=augmentation_id(prompt, templates[prompt.method], model),
                corpus=document.corpus,
                method=prompt.method,
                doc_id=prompt.doc_id,
                sentence=prompt.sentence,
                text=text,
                verdict=verdict,
                finish_reason=generation.finish_reason,
                model=model,
                template=templates[prompt.method].fingerprint,
                temperature=prompt.temperature,
                seed=prompt.seed,
            )
        )
    return rows


def augmentation_id(prompt: Prompt, template: Template, model: str) -> str:
    """Names what a model writes for a prompt; `model` is its weights' fingerprint."""
    return fingerprint(prompt.prompt_id, model, template.fingerprint)


def split_answer(text: str, template: Template) -> tuple[str, str]:
    """What a model wrote, as one line: its way to the inference, if the template asks for one, and the inference."""
    line = " ".join(text.split())
    if not template.answer_after:
        return "", line
    way, mark, answer = line.rpartition(template.answer_after)
    return way + mark, answer


def _judge(text: str, finish_reason: str, seen: set[str], nothing: str) -> str:
    if finish_reason != "stop":
        return UNFINISHED
    if not text:
        return EMPTY
    if text == nothing:
        return NOTHING
    return REPEATED if text in seen else KEPT
