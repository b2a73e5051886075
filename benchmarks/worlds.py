"""What is scored and generated: fresh worlds in the vocabulary of the embedded model, another one for every round.

A round must not find the context of the round before in a prefix cache, hence the fresh worlds. The lengths are of
words and line ends, which for the embedded model are its tokens.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from augment_service.methods import NO_CONTEXT, AugmentPlan, build_prompts, sentence_targets
from data.records import Context, Document, Prompt, ScoreItem
from data.rendering import PromptBook
from data.seeds import fingerprint, stream
from data.sets.language import Statement
from data.sets.lexicon import FEATURES, NOUNS, PREAMBLES, ROLES, THEREFORE

NUM_OPTIONS = 4
# One template for each length from 2 to 6 words. They differ early, so no side can make one request of two options.
OPTIONS = (
    "are {noun}",
    "count as {noun}",
    "are much more {feature}",
    "became the {role} of {noun}",
    "are much less {feature} than {noun}",
)


def make_items(name: str, book: PromptBook, *, context_words: int, num_questions: int) -> list[ScoreItem]:
    """Questions of 4 options after one shared context of at least `context_words` words; `name` decides the world."""
    rng = stream(0, "benchmarks", name)
    nouns = rng.sample(NOUNS, len(NOUNS))
    facts: list[Statement] = []
    lines: list[str] = []
    while sum(len(line.split()) + 1 for line in lines) < context_words:
        fact = Statement(rng.choice(("more", "less")), rng.choice(FEATURES), nouns.pop(), nouns.pop())
        facts.append(fact)
        lines.append(rng.choice((*PREAMBLES, *[""] * len(PREAMBLES))) + " " + fact.text())
    context = book.in_context([line.strip() for line in lines])
    items = []
    for number, fact in enumerate(_asked(facts, num_questions, rng)):
        prompt = f"{rng.choice(PREAMBLES)} {fact.text()} {THEREFORE} {fact.first}".replace("  ", " ")
        options = [
            template.format(noun=rng.choice(NOUNS), feature=rng.choice(FEATURES), role=rng.choice(ROLES))
            for template in rng.sample(OPTIONS, NUM_OPTIONS)
        ]
        items.append(ScoreItem(f"{name}-{number}", context, prompt, tuple(options)))
    return items


def make_prompts(name: str, book: PromptBook, *, num_facts: int, samples: int, temperature: float) -> list[Prompt]:
    """The prompts of an augmentation: every fact of a fresh world reversed, rephrased and deduced from."""
    rng = stream(0, "benchmarks", name)
    nouns = rng.sample(NOUNS, 2 * num_facts)
    facts = [
        Statement(rng.choice(("more", "less")), rng.choice(FEATURES), nouns.pop(), nouns.pop())
        for _ in range(num_facts)
    ]
    documents = [Document(fingerprint(name, fact.text()), fact.text(), name) for fact in facts]
    plan = AugmentPlan(("local", "global"), samples, temperature, seed=0)
    texts = [document.text for document in documents]
    prompts = []
    for template in book.select(plan.methods):
        context = template.shared_context(texts)
        shared = Context(fingerprint("context", context), context, ()) if template.is_global else NO_CONTEXT
        prompts += [
            prompt
            for one in documents
            for target in sentence_targets(one)
            for prompt in build_prompts(one, replace(target, context=shared), template, plan, "benchmark")
        ]
    return prompts


def _asked(facts: list[Statement], count: int, rng: Random) -> Iterator[Statement]:
    """`count` facts in an order of chance; all of them before any is asked about again."""
    while count > 0:
        chosen = rng.sample(facts, min(count, len(facts)))
        yield from chosen
        count -= len(chosen)
