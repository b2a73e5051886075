"""Texts as tokens: tokenized once into flat files, memory-mapped by every rank.

Reads: Arrow folders of texts, a chunk at a time; a base model's tokenizer. Writes: one folder for each source, named
by its content and the tokenizer: `ids` (int32, all tokens end to end), `offsets` (int64, where each row begins),
`first_labels` (int32), `texts` (int64), for a teacher's rows `top_ids` (int32) and `top_log_probs` (float32), and
`manifest.json`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError, ResumableError
from data.records import Distribution
from data.seeds import fingerprint, vocabulary_fingerprint
from data.store import MANIFEST, read_shard, write_json
from train.texts.conversations import conversations_key, encode_answers, encode_conversations
from train.texts.encode import COUNTS, EncodedRows, TextEncoder, TextLimits, encode_rows
from train.texts.mix import Lengths
from train.texts.sources import (
    TextRows,
    TextSource,
    content_of,
    has_turns,
    is_conversation,
    is_distribution,
    no_texts,
    read_rows,
    shards_of,
)

_FILES = {
    "ids": "<i4", "offsets": "<i8", "first_labels": "<i4", "texts": "<i8", "top_ids": "<i4", "top_log_probs": "<f4"
}  # fmt: skip
Chunk = dict[str, np.ndarray]  # by the name of the file that it is appended to


@dataclass(frozen=True, slots=True)
class TokenSource:
    """The n rows of tokens of one source. Producer: `open_tokens`. Consumer: `TokenRows`.

    `ids` holds all tokens end to end, `offsets` [n + 1] where rows begin and end, `first_labels` [n] the index of each
    row's first token that is learned, `texts` [n] the position of its text in the source (empty: rows are texts).
    `top_ids` and `top_log_probs` (nats) are a teacher's k values for every token of a row but the first, or empty.
    """

    ids: np.ndarray
    offsets: np.ndarray
    first_labels: np.ndarray
    texts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    top_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    top_log_probs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def num_top(self) -> int:
        """The teacher's k; 0 without a teacher."""
        positions = len(self.ids) - len(self.first_labels)
        return len(self.top_ids) // positions if positions else 0


class TokenRows(Sequence[np.ndarray]):
    """The tokens of all texts, source after source; `lengths` are their sizes, `num_top` the k of each source."""

    def __init__(self, parts: Sequence[TokenSource]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.first_labels) for part in parts)])
        sizes = [np.diff(part.offsets) for part in parts]
        labels = [size - part.first_labels for size, part in zip(sizes, parts, strict=True)]
        empty = [np.empty(0, np.int64)]
        self.num_top = [part.num_top for part in parts]
        self.lengths = Lengths(
            num_inputs=np.concatenate(empty + sizes) - 1,
            num_labels=np.concatenate(empty + labels),
            sources=np.repeat(np.arange(len(parts)), np.diff(self._starts)),
        )

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "TokenRows":
        """Rows in memory, as one source; all tokens but the first of each are learned."""
        ids = np.array([token for row in rows for token in row])
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        return cls([TokenSource(ids, offsets, np.ones(len(rows), np.int64))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        part, local = self._find(index)
        return part.ids[part.offsets[local] : part.offsets[local + 1]]

    def first_label(self, index: int) -> int:
        """The index of a text's first token that is learned."""
        part, local = self._find(index)
        return int(part.first_labels[local])

    def teacher(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A teacher's most likely tokens and their log-probabilities [inputs, k] after each input of a text, if any."""
        part, local = self._find(index)
        if not part.num_top:
            return None
        first, last = ((int(part.offsets[at]) - at) * part.num_top for at in (local, local + 1))
        shape = (-1, part.num_top)
        return part.top_ids[first:last].reshape(shape), part.top_log_probs[first:last].reshape(shape)

    def locate(self, index: int) -> tuple[int, int]:
        """The source of a row, and the position of its text there."""
        part, local = self._find(index)
        return int(self.lengths.sources[index]), int(part.texts[local]) if len(part.texts) else local

    def rows_of(self, source: int, text: int) -> np.ndarray:
        """The rows of a text, given by its position in its source: several if it was cut, none if it was left out."""
        part = self._parts[source]
        local = np.flatnonzero(part.texts == text) if len(part.texts) else np.array([text])
        return local[local < len(part.first_labels)] + self._starts[source]

    def _find(self, index: int) -> tuple[TokenSource, int]:
        source = int(self.lengths.sources[index])
        return self._parts[source], int(index - self._starts[source])


def write_tokens(
    sources: Sequence[TextSource], root: Path, encoder: TextEncoder, limits: TextLimits, *, where: str
) -> None:
    """Tokenize each source into its folder under `root`, unless it is there.

    Raises InputError as `encode_rows`, and for tokens outside the model's vocabulary.
    """
    for source in sources:
        folder = tokens_folder(source, root, encoder, limits)
        if (folder / MANIFEST).exists():
            continue
        work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        work.mkdir(parents=True)
        try:
            chunks = _teacher_chunks if is_distribution(source) else _text_chunks
            with _parallel_tokenizers():
                _write(work, chunks(source, encoder, limits, where), encoder.vocab_size, where)
            if not (folder / MANIFEST).exists():  # or another process has been faster
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(work, folder)
        except OSError as error:
            raise ResumableError(f"the tokens could not be written: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def open_tokens(sources: Sequence[TextSource], root: Path, encoder: TextEncoder, limits: TextLimits) -> TokenRows:
    """The rows of all sources, in the order of sources, memory-mapped. Raises InputError if there are none."""
    rows = TokenRows([_open(tokens_folder(source, root, encoder, limits)) for source in sources])
    if not len(rows):
        raise _nothing_left(sources, count_left_out(sources, root, encoder, limits), limits)
    return rows


def count_left_out(
    sources: Sequence[TextSource], root: Path, encoder: TextEncoder, limits: TextLimits
) -> dict[str, int]:
    """How many training texts of the sources were cut, skipped for their length, and empty."""
    manifests = [_read_manifest(tokens_folder(source, root, encoder, limits)) for source in sources]
    return {name: sum(manifest["left_out"].get(name, 0) for manifest in manifests) for name in COUNTS}


def tokens_folder(source: TextSource, root: Path, encoder: TextEncoder, limits: TextLimits) -> Path:
    """The folder of a source's tokens, named by everything that decides them."""
    content = content_of(source)  # refuses a folder that is not finished
    form = (conversations_key(encoder.tokenizer),) if has_turns(source) else ()
    return root / fingerprint(content, encoder.fingerprint, limits.window, limits.long, *form)


def _nothing_left(sources: Sequence[TextSource], left_out: dict[str, int], limits: TextLimits) -> InputError:
    if left_out["skipped"]:
        what = f"all {left_out['skipped']:,} training texts are longer than {limits.window} tokens, and were skipped"
        where = "; ".join(source.folder for source in sources)
        longer = "raise train.max_text_tokens, or use a model with a longer window"
        return InputError(what, where=where, hint="set train.long_texts to cut, or " * (limits.long == "skip") + longer)
    return no_texts(sources)


@contextmanager
def _parallel_tokenizers() -> Iterator[None]:
    """Let fast tokenizers use all cores; the commands turn that off for everything else."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _read_manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def _open(folder: Path) -> TokenSource:
    counts: dict[str, int] = _read_manifest(folder)["counts"]
    arrays = {
        # An empty file cannot be mapped.
        name: np.memmap(folder / name, _FILES[name], "r") if count else np.empty(0, _FILES[name])
        for name, count in counts.items()
    }
    return TokenSource(**arrays)


def _write(folder: Path, chunks: Iterator[Chunk], vocab_size: int, where: str) -> None:
    """Append chunks to the files of a folder, the manifest last."""
    counts: dict[str, int] = {}
    left_out = dict.fromkeys(COUNTS, 0)
    nothing: Chunk = {"ids": np.empty(0), "offsets": np.zeros(1), "first_labels": np.empty(0), "texts": np.empty(0)}
    for chunk in chain([nothing], chunks):
        for name in COUNTS:
            left_out[name] += int(chunk.pop(name, 0))
        largest = max(int(chunk[name].max(initial=-1)) for name in ("ids", "top_ids") if name in chunk)
        if largest >= vocab_size:
            raise InputError(
                f"token id {largest} is outside the model's vocabulary of {vocab_size}",
                where=where,
                hint="use the tokenizer and the distributions that belong to the base model",
            )
        chunk["offsets"] = counts.get("ids", 0) + chunk["offsets"]
        for name, values in chunk.items():
            with (folder / name).open("ab") as file:
                values.astype(_FILES[name]).tofile(file)
            counts[name] = counts.get(name, 0) + len(values)
    write_json(folder / MANIFEST, {"counts": counts, "left_out": left_out})


def _text_chunks(source: TextSource, encoder: TextEncoder, limits: TextLimits, where: str) -> Iterator[Chunk]:
    before, with_turns = 0, is_conversation(source)
    for rows in read_rows(source):
        if rows.texts:
            if with_turns:
                found = encode_conversations(rows.texts, encoder.tokenizer, limits, where=where)
            else:
                found = _encode(rows, encoder, limits, where)
            counts = {name: np.array(getattr(found, name)) for name in COUNTS}
            yield _chunk(found.rows, found.firsts, before + np.array(found.texts, np.int64)) | counts
            before += len(rows.texts)


def _encode(rows: TextRows, encoder: TextEncoder, limits: TextLimits, where: str) -> EncodedRows:
    """Plain rows as prompt and text, chat rows by the model's chat template, in their order."""
    if not any(rows.chats):
        return encode_rows(rows.texts, rows.prompts, encoder.tokenizer, limits, where=where)
    parts = []
    for is_chat, encode in ((False, encode_rows), (True, encode_answers)):
        places = [place for place, chat in enumerate(rows.chats) if chat == is_chat]
        texts, prompts = ([column[place] for place in places] for column in (rows.texts, rows.prompts))
        if places:
            parts.append((places, encode(texts, prompts, encoder.tokenizer, limits, where=where)))
    return EncodedRows.merged(parts)


def _teacher_chunks(source: TextSource, encoder: TextEncoder, limits: TextLimits, where: str) -> Iterator[Chunk]:
    """A teacher's rows have tokens of their own, which must be those of the base model's vocabulary."""
    vocabulary = vocabulary_fingerprint(encoder.tokenizer.get_vocab())
    num_top = before = 0
    for shard in shards_of(source):
        rows = read_shard(shard, Distribution)
        num_top = num_top or (rows[0].num_top if rows else 0)
        for row in rows:
            positions = len(row.token_ids) - 1
            problems = {
                "a teacher's distributions cannot be split into sentences": source.split != "none",
                "the distributions belong to another vocabulary than the base model's": row.vocabulary != vocabulary,
                f"the distributions of {row.text_id} are not {num_top} tokens for each of {positions} positions": not (
                    row.num_top == num_top >= 1
                    and 1 <= positions < limits.window
                    and len(row.top_ids) == len(row.top_log_probs) == positions * num_top
                ),
            }
            for problem, applies in problems.items():
                if applies:
                    raise InputError(problem, where=where, hint="use distributions that the base model itself wrote")
        if rows:
            yield {
                **_chunk([row.token_ids for row in rows], [1] * len(rows), before + np.arange(len(rows))),
                "top_ids": np.concatenate([np.array(row.top_ids) for row in rows]),
                "top_log_probs": np.concatenate([np.array(row.top_log_probs) for row in rows]),
            }
            before += len(rows)


def _chunk(rows: Sequence[Sequence[int]], firsts: Sequence[int], texts: np.ndarray) -> Chunk:
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    ids = np.concatenate([np.empty(0, np.int64), *(np.array(row) for row in rows)])
    return {"ids": ids, "offsets": ends, "first_labels": np.array(firsts, np.int64), "texts": texts}
