"""What an augmentation will cost, before anything is spent: prompts, tokens, disk, by method.

Reads documents, contexts, the ledger and the tokenizer; starts no engine and writes nothing but an index of the ledger.
Every prompt of a small corpus is counted; of a large corpus a sample of documents is, see `augment_service.estimates`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc

from augment_service.augment import Asked, AugmentTask
from augment_service.engines.window import CacheShape
from augment_service.estimates import Stratum, Values, draw_sample, estimate_totals
from augment_service.jobs import RowRange, ShardedJob
from augment_service.ledger import Ledger, index_shards
from augment_service.measured import Measured, measure_answers
from augment_service.methods import parse_generation
from augment_service.prefix_cache import PrefixCache
from augment_service.tokens import HINTS, TextReader, TokenRow, load_once
from augment_service.worker import answered_rows
from data.records import Augmentation, Document, Generation, Prompt, Refusal
from data.rendering import SENTENCE, Template
from data.store import read_records, read_table

EXACT_DOCUMENTS, EXACT_BYTES = 1000, 2 << 20  # a corpus of no more is counted, not sampled
SAMPLE_DOCUMENTS = 400
_PROMPTS_AT_ONCE = 512
_LEAST_PROMPTS_CACHED = 4  # of the longest, whatever share of a corpus is sampled
_ROW_TOKENS = {"statements": 12, "questions": 24, "names": 12}  # of a row, in answers that have several
_ROW_BYTES = 540  # ids, numbers and offsets of a row
_COPIES = 2  # of a row: in the ledger and in the sealed folder
_PROPOSAL = "Way {} to study all of its names, numbers and reasons"
OnDocument = Callable[[int, int], None]  # with the number of documents that are done, and of all


@dataclass(frozen=True)
class MethodPlan:
    """What one method costs, or all of them together.

    `prompts` are left to ask, `answered` are in the ledger, `refused` do not fit into the window or have unknown words.
    Of `prompt_tokens`, `cached_tokens` come from the prefix cache. `new_tokens` are expected where answers have been
    measured, else None. `bytes` of disk: the shards and the sealed folder. `documents` are asked about, `cut` of them
    in parts; `skipped` ones exceed the window. `margin` is twice the relative standard error of the prompt tokens, 0
    where they are counted. With `assumed`, the number of prompts depends on answers that are not there yet.
    `seconds` are those of one engine, where they have been measured.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    max_new_tokens: int = 0
    new_tokens: int | None = None
    bytes: int = 0
    answered: int = 0
    refused: int = 0
    documents: int = 0
    cut: int = 0
    skipped: int = 0
    margin: float = 0.0
    assumed: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """The cost of an augmentation: `total`, by method; `documents` in all, `sampled` of which were counted."""

    total: MethodPlan
    methods: Mapping[str, MethodPlan]
    documents: int
    sampled: int

    @property
    def is_exact(self) -> bool:
        """Whether every prompt was counted."""
        return self.sampled == self.documents


class Reader(Protocol):
    """Prompts to tokens, as the engine will read them."""

    def prompts(self, prompts: Sequence[Prompt]) -> list[TokenRow | Refusal]:
        """The tokens of each prompt, or why it will be refused."""
        ...


class WordReader:
    """Counts words where no tokenizer is known."""

    def __init__(self, window: int | None) -> None:
        self._window = window

    def prompts(self, prompts: Sequence[Prompt]) -> list[TokenRow | Refusal]:
        """As `Reader.prompts`; each word is a token."""
        return [self._read(prompt) for prompt in prompts]

    def _read(self, prompt: Prompt) -> TokenRow | Refusal:
        own = (prompt.before + prompt.text + prompt.after).split()
        row = TokenRow(_word_ids(prompt.context), tuple(map(hash, own)))
        needed = len(row) + prompt.max_tokens
        if self._window is not None and needed > self._window:
            what = f"{needed} tokens are needed, the model's window has {self._window}"
            return Refusal(prompt.prompt_id, "window", what, HINTS["window"])
        return row


@lru_cache(maxsize=64)
def _word_ids(text: str) -> tuple[int, ...]:
    return tuple(map(hash, text.split()))


@dataclass
class _Counts:
    """What one document costs by one template. All but `text_bytes` are totalled as they are."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    max_new_tokens: int = 0
    row_bytes: int = 0
    text_bytes: int = 0
    answered: int = 0
    refused: int = 0
    documents: int = 0
    cut: int = 0
    skipped: int = 0

    def values(self) -> list[int]:
        return [getattr(self, one.name) for one in fields(self)]


@dataclass
class _Tally:
    """The counts of the chosen documents by method, and which methods were asked with assumed proposals."""

    num_documents: int
    counts: dict[str, list[_Counts]] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)

    def of(self, template: Template, number: int) -> _Counts:
        """The counts of a chosen document."""
        if template.method not in self.counts:
            self.templates[template.method] = template
            self.counts[template.method] = [_Counts() for _ in range(self.num_documents)]
        return self.counts[template.method][number]


@dataclass(frozen=True)
class _Chosen:
    """A document that is counted: its number among these, its unit's rows, its place in them."""

    number: int
    rows: RowRange
    row: int
    document: Document


def plan_cost(
    jobs: Sequence[ShardedJob], parts: Path, cache: CacheShape, *, seed: int, on_document: OnDocument = lambda *_: None
) -> Plan:
    """What is left to be asked by the jobs of an augmentation, all of which go through the same documents.

    `parts` is the folder of their shards. Refused prompts and those of the ledger cost nothing.
    """
    if not jobs:  # methods without a model alone
        return Plan(MethodPlan(), {}, 0, 0)
    ranges = list(dict.fromkeys(rows for job in jobs for rows in job.ranges))
    sizes = _sizes(ranges)
    count = len(sizes) if len(sizes) <= EXACT_DOCUMENTS and sizes.sum() <= EXACT_BYTES else SAMPLE_DOCUMENTS
    strata = draw_sample(sizes, count, seed)
    places = np.concatenate([stratum.chosen for stratum in strata])
    in_order = np.sort(places)
    chosen = _read_chosen(ranges, in_order)
    share = len(chosen) / len(sizes)
    ledger = Ledger.open(
        index_shards(parts), Augmentation
    )  # with the jobs' own shards, which their tasks need not know
    tally, simulated = _Tally(len(chosen)), _Cache(cache, share)
    total, done = sum(len(_of_job(job, chosen)) for job in jobs), 0
    for job in jobs:
        mine = _of_job(job, chosen)
        for _ in _count_job(job, mine, ledger, tally, simulated, warm=share < 1):
            done += 1
            on_document(done, total)
    models = {job.task.model for job in jobs if isinstance(job.task, AugmentTask)}
    measured = measure_answers(parts, [*tally.templates.values()], models)
    back = np.searchsorted(in_order, places)  # from the strata's order to that of the documents
    methods = {
        method: _total(tally, method, strata, sizes[places], back, measured.get(method)) for method in tally.counts
    }
    return Plan(_add(list(methods.values())), methods, len(sizes), len(chosen))


def _of_job(job: ShardedJob, chosen: Sequence[_Chosen]) -> list[_Chosen]:
    own = set(job.ranges)
    return [one for one in chosen if one.rows in own]


def _sizes(ranges: Sequence[RowRange]) -> Values:
    """Bytes of each document's text."""
    parts = [pc.binary_length(_rows(one)["text"]).to_numpy() for one in ranges]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


def _rows(rows: RowRange) -> Any:
    return read_table(Path(rows.shard)).slice(rows.start, rows.stop - rows.start)


def _read_chosen(ranges: Sequence[RowRange], places: Any) -> list[_Chosen]:
    """The documents at these places, which are in order."""
    chosen: list[_Chosen] = []
    first = at = 0
    for rows in ranges:
        stop = first + rows.stop - rows.start
        end = int(np.searchsorted(places, stop))
        inside = [int(place) - first for place in places[at:end]]
        if inside:
            table = _rows(rows)
            found = [read_records(table.slice(row, 1), Document)[0] for row in inside]
            chosen += [_Chosen(at + number, rows, inside[number], one) for number, one in enumerate(found)]
        first, at = stop, end
    return chosen


class _Cache:
    """The prefix cache of a run, shrunk as the corpus is: what is far apart there must not be near here."""

    def __init__(self, shape: CacheShape, share: float) -> None:
        self._shape, self._share = shape, share
        self._cache = PrefixCache(shape.block, shape.num_blocks)

    def begin(self, longest: int) -> None:
        """A job begins, whose prompts have up to `longest` tokens."""
        if self._share < 1:
            least = _LEAST_PROMPTS_CACHED * (longest // self._shape.block + 1)
            self._cache.capacity = min(max(int(self._shape.num_blocks * self._share), least), self._shape.num_blocks)

    def read(self, row: TokenRow) -> int:
        """As `PrefixCache.read`."""
        return self._cache.read(row)


def _count_job(
    job: ShardedJob,
    chosen: Sequence[_Chosen],
    ledger: Ledger[Augmentation],
    tally: _Tally,
    cache: _Cache,
    *,
    warm: bool,
) -> Iterator[None]:
    """Count the chosen documents of a job; yields after each. With `warm`, what its prompts share is cached before."""
    task: Any = job.task
    assert isinstance(task, AugmentTask)
    reader: Reader = WordReader(task.window)
    if task.tokenizer:
        reader = TextReader(load_once(Path(task.tokenizer)), window=task.window)
    targets = dict(zip(job.ranges, job.targets, strict=True))
    answered = {rows: answered_rows(targets[rows], rows.stop - rows.start) for rows in {one.rows for one in chosen}}
    if warm and chosen:
        stages = task.stages(chosen[-1].document, partial(assume_proposals, task, chosen[-1].document))
        rows = reader.prompts([prompt for _, asked in stages for prompt, _ in asked])
        known = [row for row in rows if isinstance(row, TokenRow)]
        cache.begin(max(map(len, known), default=0))
        for row in known:
            cache.read(row)
    waiting: list[tuple[_Counts, Prompt, int]] = []
    for one in chosen:
        is_done = one.row in answered[one.rows]
        for template, asked in task.stages(one.document, partial(_propose, task, one, ledger, tally)):
            counts = tally.of(template, one.number)
            counts.documents += bool(asked)
            counts.cut += any(target.span for _, target in asked)
            is_whole = SENTENCE not in template.placeholders and task.plan.long_documents == "skip"
            counts.skipped += is_whole and not asked and bool(one.document.text.strip())
            for prompt, target in asked:
                if is_done or prompt.prompt_id in ledger:
                    counts.answered += 1
                else:
                    waiting.append((counts, prompt, _row_bytes(prompt, template, target.sources)))
        if len(waiting) >= _PROMPTS_AT_ONCE:
            _read(waiting, reader, cache)
        yield
    _read(waiting, reader, cache)


def _read(waiting: list[tuple[_Counts, Prompt, int]], reader: Reader, cache: _Cache) -> None:
    """Count the tokens of the waiting prompts, each of which comes with the bytes of its rows."""
    rows = reader.prompts([prompt for _, prompt, _ in waiting])
    for (counts, prompt, row_bytes), row in zip(waiting, rows, strict=True):
        if isinstance(row, Refusal):
            counts.refused += 1
            continue
        counts.prompts += 1
        counts.row_bytes += row_bytes
        counts.prompt_tokens += len(row)
        counts.cached_tokens += cache.read(row)
        counts.max_new_tokens += prompt.max_tokens
        counts.text_bytes += len(prompt.before) + len(prompt.context) + len(prompt.text) + len(prompt.after)
    waiting.clear()


def _propose(
    task: AugmentTask, one: _Chosen, ledger: Ledger[Augmentation], tally: _Tally, asked: Sequence[Asked]
) -> Iterator[Augmentation]:
    """What the ledger has of the proposals; the most that there can be for the others."""
    missing = []
    for prompt, target in asked:
        found = ledger.find(prompt.prompt_id)
        yield from found
        if not found:
            missing.append((prompt, target))
    if missing:
        tally.assumed.add(task.template.method)
    yield from assume_proposals(task, one.document, missing)


def assume_proposals(task: AugmentTask, document: Document, asked: Sequence[Asked]) -> Iterator[Augmentation]:
    """Proposals as a model could write them, as many as are asked about."""
    assert task.proposal is not None
    text = "\n".join(_PROPOSAL.format(number) for number in range(1, task.plan.per_document + 1))
    for prompt, target in asked:
        written = Generation(prompt.prompt_id, text, "stop", 0)
        yield from parse_generation(
            prompt, written, document, target, task.proposal, nothing=task.nothing, model=task.model
        )


def _row_bytes(prompt: Prompt, template: Template, sources: Sequence[str]) -> int:
    """Bytes of an answer's rows without what the model writes."""
    each = _ROW_TOKENS.get(template.reader, template.max_tokens)
    row = _ROW_BYTES + len(prompt.sentence.encode()) + len(prompt.method) + 36 * len(sources)
    return row * -(-template.max_tokens // each)


def _total(
    tally: _Tally, method: str, strata: Sequence[Stratum], sizes: Values, back: Any, measured: Measured | None
) -> MethodPlan:
    values = np.array([one.values() for one in tally.counts[method]], dtype=np.float64)[back]
    totals, errors = estimate_totals(strata, sizes, values)
    names = [one.name for one in fields(_Counts)]
    found = {name: round(float(total)) for name, total in zip(names, totals, strict=True)}
    row_bytes, text_bytes = found.pop("row_bytes"), found.pop("text_bytes")
    tokens, prompts = found["prompt_tokens"], found["prompts"]
    new_tokens, size = None, row_bytes + found["max_new_tokens"] * text_bytes / max(tokens, 1)
    if measured is not None:
        new_tokens, size = round(prompts * measured.new_tokens), prompts * measured.bytes
    return MethodPlan(
        **found,
        new_tokens=new_tokens,
        bytes=round(_COPIES * size),
        margin=float(errors[names.index("prompt_tokens")]) / max(tokens, 1),
        assumed=method in tally.assumed,
    )


def _add(plans: Sequence[MethodPlan]) -> MethodPlan:
    """The total. Documents are counted once, errors add up as if they were equal."""
    sums = {
        name: sum(getattr(plan, name) for plan in plans)
        for name in ("prompts", "prompt_tokens", "cached_tokens", "max_new_tokens", "bytes", "answered", "refused")
    }
    most = {name: max((getattr(plan, name) for plan in plans), default=0) for name in ("documents", "cut", "skipped")}
    expected = [plan.new_tokens for plan in plans if plan.prompts]
    margin = sum(plan.margin * plan.prompt_tokens for plan in plans) / max(sums["prompt_tokens"], 1)
    return MethodPlan(
        **sums,
        **most,
        new_tokens=sum(one or 0 for one in expected) if None not in expected else None,
        margin=margin,
        assumed=any(plan.assumed for plan in plans),
    )
