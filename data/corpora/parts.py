"""Documents to parts: chunks of a token budget, single sentences, or each sentence with those before it.

A part's id is its document's id, a slash, and its number.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from data.corpora.arrays import string_array
from data.corpora.reading import ImportSettings, in_blocks
from data.errors import InputError
from data.sentences import TokenCounter, chunk_spans, cumulate, split_sentences, word_counter

TOKENIZER = "tokenizer.json"
_MAX_CUMULATED = 2000  # tokens, if no budget is given: the text grows with the square of the sentences


def load_counter(tokenizer: str) -> TokenCounter:
    """Counts the tokens of texts with a `tokenizer.json` (or the one in a model's folder); words if it is "".

    Raises InputError if there is no such tokenizer.
    """
    if not tokenizer:
        return word_counter
    path = _find_tokenizer(tokenizer)
    try:
        json.loads(path.read_bytes())
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:
        hint = "download the model again, or name another one"
        raise InputError(f"the tokenizer cannot be read: {error}", where=str(path), hint=hint) from error
    # Saved settings for batches of one length would distort the counts.
    loaded.no_padding()
    loaded.no_truncation()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in loaded.encode_batch(list(texts), add_special_tokens=False)]

    return count


def hash_tokenizer(tokenizer: str) -> str:
    """A hash of the tokenizer's content; "" for none."""
    return hashlib.sha256(_find_tokenizer(tokenizer).read_bytes()).hexdigest() if tokenizer else ""


def _find_tokenizer(tokenizer: str) -> Path:
    path = Path(tokenizer) / TOKENIZER if Path(tokenizer).is_dir() else Path(tokenizer)
    if not path.is_file():
        raise InputError("no tokenizer here", where=str(path), hint=f"name a model's folder with a {TOKENIZER}")
    return path


def cut_into_parts(documents: pa.Table, settings: ImportSettings, count: TokenCounter) -> Iterator[pa.Table]:
    """Tables of bounded size with the columns doc_id and text; unchanged if nothing is to be cut."""
    if not settings.chunk_tokens and settings.split == "none":
        yield documents
        return
    rows = zip(documents["doc_id"].to_pylist(), documents["text"].to_pylist(), strict=True)
    parts = (
        (f"{doc_id}/{number}", part)
        for doc_id, text in rows
        for number, part in enumerate(_parts(text, settings, count))
    )
    for block in in_blocks(parts, lambda part: len(part[1])):
        columns = [string_array(column) for column in zip(*block, strict=True)]
        yield pa.Table.from_arrays(columns, names=["doc_id", "text"])


def _parts(text: str, settings: ImportSettings, count: TokenCounter) -> Iterator[str]:
    growing = _MAX_CUMULATED if settings.split == "cumulative" else 0
    for chunk in _chunks(text, settings.chunk_tokens or growing, count):
        if settings.split == "none":
            yield chunk
        else:
            sentences = split_sentences(chunk)
            yield from sentences if settings.split == "independent" else cumulate(sentences)


def _chunks(text: str, budget: int, count: TokenCounter) -> Iterator[str]:
    if not budget:
        yield text
        return
    for start, end in chunk_spans(text, budget, count):
        if chunk := text[start:end].strip():
            yield chunk
