"""Entities that a document links, alone or through another one: where a question about several documents can start.

Reads an index. What is drawn depends on the document, its entities and the seed, not on its row: in a larger corpus
most groups of a document stay.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from augment_service.related.entities import IDENTIFIER, NAME, QUANTITY, RARE, TERM
from augment_service.related.words import Ints, Keys, is_mark, split_words, terms_of
from data.corpora.words import mixed
from data.seeds import derive_seed

if TYPE_CHECKING:
    from augment_service.related.index import Index

MOST_OWN = 24  # entities of a document that are combined: 2,024 triples
MOST_HOLDERS = 64  # documents of an entity that are looked at
_LINKS, _OTHERS = 4, 4  # documents that share an entity; entities of such a document
_COMMON, _COMMON_SHARE = 16, 0.25  # an entity in more documents than either says nothing
_INSIDE = 2  # groups within the document, for each one that goes through another
_RARE_FADES, _FADES = 2.0, 0.25  # powers of how much rarer the rarest of its kind is
_WEIGHTS = {NAME: 4.0, TERM: 3.0, IDENTIFIER: 3.0, RARE: 1.0, QUANTITY: 1.0}


@dataclass(frozen=True, slots=True)
class Group:
    """Two or three entities, and documents that hold them: the document that was asked about first."""

    entities: tuple[str, ...]
    rows: tuple[int, ...]


def draw_groups(index: "Index", row: int, size: int, count: int, seed: int) -> list[Group]:
    """At most `count` groups of `size` entities of a document, none twice, with at most `size` more documents each.

    They stand in the document together; or some do, and another document holds one of these and the last: "a" with "b"
    here, "b" with "c" there. Two groups of the first kind precede each of the second.
    """
    (doc_id,) = index.documents.ids([row])
    draw = np.uint64(derive_seed(seed, "groups", doc_id, size))
    own = _telling(index, index.entities_of(row), row)[:MOST_OWN]
    inside = _ranked(index, _Drawn(np.array(list(combinations(own.tolist(), size)), np.int64).reshape(-1, size)), draw)
    linked = _ranked(index, _linked(index, row, own, size, draw), draw)
    found: dict[frozenset[int], Group] = {}
    for entities, other in _interleaved(inside, linked):
        if len(found) == count:
            break
        texts = index.entity_texts(entities)
        if frozenset(entities) not in found and not _overlap(texts):
            rows = _holders(index, row, other, entities)[: size + 1]
            found[frozenset(entities)] = Group(tuple(texts), rows)
    return list(found.values())


@dataclass(frozen=True)
class _Drawn:
    """Groups as numbers of entities, of shape (n, size), and the other document of each (-1: none)."""

    entities: Ints
    others: Ints | None = None


def _telling(index: "Index", entities: Ints, row: int) -> Ints:
    """The entities that are not in too many documents; names first, in the order of the text."""
    kinds, documents = index.entity_kinds(entities), index.entity_documents(entities)
    most = max(_COMMON, _COMMON_SHARE * index.corpus_size(row))
    weights = np.array([_WEIGHTS[kind] for kind in kinds.tolist()])
    kept = np.flatnonzero(documents <= most)
    return entities[kept[np.argsort(-weights[kept], kind="stable")]]


def _linked(index: "Index", row: int, own: Ints, size: int, draw: np.uint64) -> _Drawn:
    """Groups through another document: an own entity, one that both share (a part of triples only), one there."""
    texts, own = index.array("texts"), _best_kinds(index, own)
    groups: list[tuple[int, ...]] = []
    others: list[int] = []
    known = set(index.entities_of(row).tolist())
    for shared in own.tolist():
        holders = index.holders(shared, MOST_HOLDERS)
        holders = holders[texts[holders] != texts[row]]
        for other in holders[np.argsort(mixed(texts[holders] ^ draw), kind="stable")][:_LINKS].tolist():
            there = _best_kinds(index, _telling(index, index.entities_of(other), other))
            there = there[np.array([entity not in known for entity in there.tolist()], bool)]
            near = own[own != shared]
            for first in _some(index, near, draw, shared):
                for last in _some(index, there, draw, shared):
                    groups.append((first, last) if size == 2 else (first, shared, last))
                    others.append(other)
    return _Drawn(np.array(groups, np.int64).reshape(-1, size), np.array(others, np.int64))


def _best_kinds(index: "Index", entities: Ints) -> Ints:
    """Without rare words and quantities, which link a document to any other, if there is anything else."""
    better = entities[~np.isin(index.entity_kinds(entities), (RARE, QUANTITY))]
    return better if len(better) else entities


def _some(index: "Index", entities: Ints, draw: np.uint64, shared: int) -> list[int]:
    keys = index.array("entity_keys")
    order = np.argsort(mixed(keys[entities] ^ keys[shared] ^ draw), kind="stable")
    return entities[order[:_OTHERS]].tolist()


def _ranked(index: "Index", drawn: _Drawn, draw: np.uint64) -> Iterator[tuple[tuple[int, ...], int]]:
    """The groups in a random order, in which heavier ones tend to come first; with the other document, or -1."""
    if not len(drawn.entities):
        return
    keys: Keys = mixed(index.array("entity_keys")[drawn.entities] ^ draw)
    uniform = (mixed(keys.sum(axis=1, dtype=np.uint64)) >> np.uint64(11)).astype(np.float64) / 2**53
    weights = _weights(index, drawn.entities.ravel()).reshape(drawn.entities.shape).prod(axis=1)
    others = np.full(len(weights), -1) if drawn.others is None else drawn.others
    for place in np.argsort(-np.log(np.maximum(uniform, 1e-300)) / weights, kind="stable").tolist():
        yield tuple(drawn.entities[place].tolist()), int(others[place])


def _weights(index: "Index", entities: Ints) -> npt.NDArray[np.float64]:
    """How much entities tell: by their kind, and by how rare they are beside others of that kind."""
    kinds, documents = index.entity_kinds(entities), index.entity_documents(entities)
    weights = np.zeros(len(entities))
    for kind, weight in _WEIGHTS.items():
        own = kinds == kind
        if own.any():
            fades = _RARE_FADES if kind == RARE else _FADES
            weights[own] = weight * (documents[own].min() / documents[own]) ** fades
    return weights


def _interleaved(
    inside: Iterator[tuple[tuple[int, ...], int]], linked: Iterator[tuple[tuple[int, ...], int]]
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Some of the first for each of the second, then what is left of either."""
    for group in linked:
        for _, own in zip(range(_INSIDE), inside, strict=False):
            yield own
        yield group
    yield from inside


def _holders(index: "Index", row: int, other: int, entities: Sequence[int]) -> tuple[int, ...]:
    """The document, the other one, and those that hold most of the entities, each text once."""
    counts: Counter[int] = Counter()
    for entity in entities:
        counts.update(index.holders(entity, MOST_HOLDERS).tolist())
    ranked = [row, *[other] * (other >= 0), *sorted(counts, key=lambda held: (-counts[held], held))]
    texts = index.array("texts")
    distinct = {int(texts[held]): held for held in reversed(ranked)}
    return tuple(held for held in dict.fromkeys(ranked) if distinct[int(texts[held])] == held)


def _overlap(texts: Sequence[str]) -> bool:
    """Whether all words of an entity are words of another one."""
    words = [{term for token in split_words(text) if not is_mark(token) for term in terms_of(token)} for text in texts]
    return any(one <= other or other <= one for one, other in combinations(words, 2))
