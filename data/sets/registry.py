"""The sets that can be generated, and how one is written to disk.

Writes `inputs.json`, `documents/` and `questions/` (one shard for each generated corpus) and, last, `manifest.json`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from data.records import Document, Question
from data.seeds import fingerprint
from data.sentences import split_sentences
from data.sets import reversals, syllogisms
from data.sets.process import worlds as process
from data.sets.reversal_curse import published
from data.sets.reversal_curse import worlds as reversal_curse
from data.sets.semantic import worlds as semantic
from data.sets.world import World
from data.store import MANIFEST, claim, content_of, is_claimed, seal, shard_name, write_json, write_shard

_HELPERS = tuple("abbreviations baselines clauses graphemes markdown seeds sentences stops structure wrapping".split())
# (name, lexicon) -> maker of one world: "tiny" is the embedded model's lexicon, "open" is English at the paper's size.
SETS: dict[tuple[str, str], Callable[..., World]] = {
    ("reversals", "tiny"): reversals.make_small,
    ("syllogisms", "tiny"): syllogisms.make_small,
    ("reversal-curse", "tiny"): reversal_curse.make_small,
    ("semantic", "tiny"): semantic.make_small,
    ("process", "tiny"): process.make_small,
    ("reversals", "open"): reversals.make_full,
    ("syllogisms", "open"): syllogisms.make_full,
    ("reversal-curse", "open"): reversal_curse.make_full,
    ("semantic", "open"): semantic.make_full,
    ("process", "open"): process.make_full,
}


def _hash_generators() -> str:
    """A hash of all that decides the content of a set: code, word lists and templates of `data.sets`, and helpers."""
    here = Path(__file__).parent
    files = [path for path in here.rglob("*") if path.suffix in {".py", ".toml", ".txt", ".gz"}]
    files += [here.parent / f"{name}.py" for name in _HELPERS]
    digests = {path.relative_to(here.parent).as_posix(): hashlib.sha256(path.read_bytes()).digest() for path in files}
    return fingerprint(*sorted(digests.items()))


GENERATOR_VERSION = _hash_generators()  # part of every key of generated data: a changed generator is noticed


def make_worlds(name: str, lexicon: str, worlds: int, sizes: Mapping[str, Any], seed: int) -> Iterator[World]:
    """The worlds of a set, one after another; with a size `published`, the files in that folder are the only world."""
    if folder := sizes.get("published"):
        yield published.read_world(Path(folder), seed=seed)
        return
    wanted = {key: value for key, value in sizes.items() if key != "published"}
    for index in range(worlds):
        yield SETS[name, lexicon](seed, index, **wanted)


def set_key(name: str, lexicon: str, worlds: int, sizes: Mapping[str, Any], seed: int) -> str:
    """Names everything that decides the content of a set; of published files the content counts, not the path."""
    values = dict(sizes)
    if folder := values.get("published"):
        files = sorted(Path(folder).glob("*.jsonl"))
        values["published"] = fingerprint(*((path.name, hashlib.sha256(path.read_bytes()).digest()) for path in files))
    return fingerprint(name, lexicon, worlds, sorted(values.items()), seed, GENERATOR_VERSION)


def make_set(name: str, lexicon: str, worlds: int, sizes: Mapping[str, Any], seed: int, folder: Path) -> bool:
    """Write a set into `folder`; False if it is there already, complete.

    An interrupted one is generated again. Raises InputError if the folder holds another set, seed or size, or files of
    any other origin.
    """
    key = set_key(name, lexicon, worlds, sizes, seed)
    if is_claimed(folder, key) and (folder / MANIFEST).exists():
        return False
    generated = make_worlds(name, lexicon, worlds, sizes, seed)
    first = next(generated)  # impossible sizes are refused before anything is written
    claim(folder, key)
    save_set(folder, name, chain([first], generated), seed=seed)
    return True


def save_set(folder: Path, name: str, worlds: Iterable[World], *, seed: int) -> None:
    """Write worlds one by one, a shard of documents and one of questions each, then the manifest with the counts."""
    for stale in [path for part in ("documents", "questions") for path in (folder / part).glob("part-*.arrow")]:
        stale.unlink()  # of an interrupted command
    counts: Counter[str] = Counter()
    inferences: dict[str, Counter[str]] = defaultdict(Counter)
    facts, notes = {}, {}
    for number, world in enumerate(worlds):
        write_shard(folder / "documents" / shard_name(number), Document, world.documents)
        write_shard(folder / "questions" / shard_name(number), Question, world.questions)
        texts = [document.text for document in world.documents]
        counts["num_worlds"] += 1
        counts["num_documents"] += len(texts)
        counts["num_sentences"] += sum(len(split_sentences(text)) for text in texts)
        counts["num_words"] += sum(len(text.split()) for text in texts)
        for question in world.questions:
            inferences[question.split][question.inference] += 1
        facts[world.name], notes[world.name] = list(map(world.describe, world.facts)), world.notes
    seal(folder / "documents", Document)
    seal(folder / "questions", Question)
    manifest = {
        "set": name,
        "seed": seed,
        **counts,
        "num_questions": {split: by_kind.total() for split, by_kind in inferences.items()},
        "num_questions_by_inference": inferences,
        "content": fingerprint(content_of(folder / "documents"), content_of(folder / "questions")),
        "generator": GENERATOR_VERSION,
        "facts": facts,
        "notes": {world: found for world, found in notes.items() if found},
    }
    write_json(folder / MANIFEST, manifest, durable=True)
