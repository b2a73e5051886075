"""Texts as tokens: tokenised once into flat files, memory-mapped by every rank.

Reads: Arrow folders of texts, some rows at a time; a base model's tokenizer. Writes: one folder for each source, named
by its content and the tokenizer: `ids` (int32, all tokens end to end), `offsets` (int64, where each text begins),
`first_labels` (int32), of a teacher's rows `top_ids` (int32) and `top_log_probs` (float32), and `manifest.json`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.errors import InputError, ResumableError
from data.records import Distribution
from data.seeds import fingerprint, vocabulary_fingerprint
from data.store import MANIFEST, read_shard, write_json
from train.texts.encode import Reader, encode_rows
from train.texts.sources import TextSource, content_of, is_distribution, no_texts, read_rows, shards_of
from train.texts.token_rows import TokenRows, TokenSource

_FILES = {"ids": "<i4", "offsets": "<i8", "first_labels": "<i4", "top_ids": "<i4", "top_log_probs": "<f4"}
Chunk = dict[str, np.ndarray]  # by the name of the file that it is appended to


def write_tokens(sources: Sequence[TextSource], root: Path, reader: Reader, *, where: str) -> None:
    """Tokenise each source into its folder under `root`, unless it is there. One process at a time does this.

    Raises InputError as `encode_rows` and for tokens that the model does not have.
    """
    for source in sources:
        folder = _folder(source, root, reader)
        if (folder / MANIFEST).exists():
            continue
        work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        work.mkdir(parents=True)
        try:
            chunks = _teacher_chunks if is_distribution(source) else _text_chunks
            _fill(work, chunks(source, reader, where), reader.vocab_size, where)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(work, folder)
        except OSError as error:
            raise ResumableError(f"the tokens could not be written: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def open_tokens(sources: Sequence[TextSource], root: Path, reader: Reader) -> TokenRows:
    """The rows of all sources, in the order of sources, memory-mapped. Raises InputError if there are none."""
    rows = TokenRows([_open(_folder(source, root, reader)) for source in sources])
    if not len(rows):
        raise no_texts(sources)
    return rows


def _folder(source: TextSource, root: Path, reader: Reader) -> Path:
    return root / fingerprint(content_of(source), reader.fingerprint, reader.window)


def _open(folder: Path) -> TokenSource:
    counts: dict[str, int] = json.loads((folder / MANIFEST).read_text())["counts"]
    arrays = {
        # A file without bytes cannot be mapped.
        name: np.memmap(folder / name, _FILES[name], "r") if count else np.empty(0, _FILES[name])
        for name, count in counts.items()
    }
    return TokenSource(**arrays)


def _fill(folder: Path, chunks: Iterator[Chunk], vocab_size: int, where: str) -> None:
    """Append chunks to the files of a folder, the manifest last."""
    files: dict[str, BinaryIO] = {}
    counts = dict.fromkeys(("ids", "offsets", "first_labels"), 0)
    try:
        for name in counts:
            files[name] = (folder / name).open("wb")
        np.zeros(1, _FILES["offsets"]).tofile(files["offsets"])
        counts["offsets"] = 1
        for chunk in chunks:
            most = max((int(chunk[name].max(initial=-1)) for name in chunk if name in ("ids", "top_ids")), default=-1)
            if most >= vocab_size:
                raise InputError(
                    f"the tokens reach up to {most}, the model has {vocab_size} of them",
                    where=where,
                    hint="use the tokenizer and the distributions that belong to the base model",
                )
            chunk["offsets"] = counts["ids"] + chunk["offsets"]
            for name, values in chunk.items():
                if name not in files:
                    files[name] = (folder / name).open("wb")
                values.astype(_FILES[name]).tofile(files[name])
                counts[name] = counts.get(name, 0) + len(values)
    finally:
        for file in files.values():
            file.close()
    write_json(folder / MANIFEST, {"counts": counts})


def _text_chunks(source: TextSource, reader: Reader, where: str) -> Iterator[Chunk]:
    for texts, prompts in read_rows(source):
        if texts:
            rows, firsts = encode_rows(texts, prompts, reader.tokenizer, window=reader.window, where=where)
            yield _chunk(rows, firsts)


def _teacher_chunks(source: TextSource, reader: Reader, where: str) -> Iterator[Chunk]:
    """A teacher's rows bring tokens of their own; they must be those of the base model's vocabulary."""
    ours = vocabulary_fingerprint(reader.tokenizer.get_vocab())
    num_top = 0
    for shard in shards_of(source):
        rows = read_shard(shard, Distribution)
        num_top = num_top or (rows[0].num_top if rows else 0)
        for row in rows:
            places = len(row.token_ids) - 1
            troubles = {
                "the distributions belong to another vocabulary than the base model's": row.vocabulary != ours,
                f"the distributions of {row.text_id} are not {num_top} tokens for each of {places} places": not (
                    row.num_top == num_top >= 1
                    and 1 <= places < reader.window
                    and len(row.top_ids) == len(row.top_log_probs) == places * num_top
                ),
            }
            for trouble, holds in troubles.items():
                if holds:
                    raise InputError(trouble, where=where, hint="let the base model itself be the teacher, anew")
        if rows:
            yield {
                **_chunk([row.token_ids for row in rows], [1] * len(rows)),
                "top_ids": np.concatenate([np.array(row.top_ids) for row in rows]),
                "top_log_probs": np.concatenate([np.array(row.top_log_probs) for row in rows]),
            }


def _chunk(rows: Sequence[Sequence[int]], firsts: Sequence[int]) -> Chunk:
    ends = np.cumsum([len(row) for row in rows])
    return {"ids": np.concatenate([np.array(row) for row in rows]), "offsets": ends, "first_labels": np.array(firsts)}
