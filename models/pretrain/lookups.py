"""Look-up documents: pairs of words and questions about them, the simplest form of in-context learning."""

from collections.abc import Sequence
from random import Random

from data.sets.lexicon import END_OF_LINE, NOUNS, PREAMBLES, SEPARATOR
from models.pretrain.documents import Weighted

PREAMBLE_WORDS = tuple(dict.fromkeys(" ".join(PREAMBLES).replace(",", "").split()))


def lookup_document(rng: Random, length: int, *, chained: bool) -> Weighted:
    """Key-value pairs and their look-ups, forward, backward or over two pairs, on which all other skills build.

    A chained document has pairs (A B, B C) and also asks for the far end of A, marked by a filler word of its own.
    """
    gap, lead = rng.randrange(5), rng.randrange(2)
    *fillers, far = rng.sample(PREAMBLE_WORDS, gap + lead + 1)
    num_pairs = max(2, round(length * rng.uniform(0.3, 0.5) / (3 + gap + lead)))
    names = rng.sample(NOUNS, 2 * num_pairs)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    chains = []
    if chained:
        triples = [names[3 * i : 3 * i + 3] for i in range(max(1, num_pairs // 2))]
        pairs = [pair for a, b, c in triples for pair in ((a, b), (b, c))]
        chains = [(a, c) for a, _, c in triples]
        rng.shuffle(pairs)
    backward = rng.choice((0.0, 0.0, 0.5, 1.0))
    words: Weighted = []

    def line(one: str, two: str, answer: float, between: Sequence[str]) -> Weighted:
        head = [(word, 0.02) for word in (*fillers[:lead], one, *between)]
        return [*head, (two, answer), (END_OF_LINE, 0.02)]

    for one, two in pairs:
        words += line(one, two, 0.0, fillers[lead:])
    words += [(SEPARATOR, 0.02), (END_OF_LINE, 0.02)]
    while len(words) < length:
        if chains and rng.random() < 0.6:
            words += line(*rng.choice(chains), 1.0, [far, *fillers[lead + 1 :]])
            continue
        one, two = rng.choice(pairs)
        words += line(*((two, one) if rng.random() < backward else (one, two)), 1.0, fillers[lead:])
    return words[:length]
