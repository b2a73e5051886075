"""Documents to parts: chunks of a token budget, single sentences, or each sentence with those before it.

A part's id is its document's id, a slash, and its number.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from data.chunks import chunk_spans
from data.corpora.arrays import list_array, string_array
from data.corpora.reading import ImportSettings, in_blocks
from data.errors import InputError
from data.markdown import complete, heading_text
from data.sentences import TokenCounter, cumulate, split_sentences, word_counter
from data.structure import BETWEEN, HEADINGS, VERBATIM, Mark, outline_with, part_of

TOKENIZER = "tokenizer.json"
PART_COLUMNS = ["doc_id", "text", "heading", "outline"]
Part = tuple[str, str, Sequence[int]]  # text, heading, outline
_LONGEST_HEADING = 200  # characters; the rest is left out
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
    """Tables of bounded size with the columns of `PART_COLUMNS`; unchanged if nothing is to be cut."""
    if not settings.chunk_tokens and settings.split == "none":
        yield documents
        return
    columns = [documents[name].to_pylist() for name in PART_COLUMNS]
    parts = (
        (f"{doc_id}/{number}", *part)
        for doc_id, text, heading, outline in zip(*columns, strict=True)
        for number, part in enumerate(_parts(text, heading, outline, settings, count))
    )
    for block in in_blocks(parts, lambda part: len(part[1])):
        ids, texts, headings, outlines = zip(*block, strict=True)
        arrays = [*map(string_array, (ids, texts, headings)), list_array(outlines)]
        yield pa.Table.from_arrays(arrays, names=PART_COLUMNS)


def _parts(
    text: str, heading: str, outline: Sequence[int], settings: ImportSettings, count: TokenCounter
) -> Iterator[Part]:
    growing = _MAX_CUMULATED if settings.split == "cumulative" else 0
    for chunk, above, marks in _chunks(text, heading, outline, settings.chunk_tokens or growing, count):
        if settings.split == "none":
            yield chunk, above, marks
        else:
            sentences = split_sentences(chunk, marks)
            for sentence in sentences if settings.split == "independent" else cumulate(sentences):
                yield sentence, above, ()


def _chunks(text: str, heading: str, outline: Sequence[int], budget: int, count: TokenCounter) -> Iterator[Part]:
    if not budget:
        yield text, heading, outline
        return
    marks = complete(text, outline)
    whole = outline_with(marks)
    above = _HeadingsAbove(text, heading, marks)
    for start, end in chunk_spans(text, budget, count, whole):
        if chunk := text[start:end].strip():
            first = start + text[start:end].index(chunk)
            yield chunk, above.at(first), part_of(whole, first, first + len(chunk))


class _HeadingsAbove:
    """The title of a document and the headings above places in it, which are asked for in order."""

    def __init__(self, text: str, title: str, marks: Sequence[Mark]) -> None:
        self._text, self._title = text, title
        self._headings = [mark for mark in marks if mark[0] in HEADINGS]
        self._stack: list[tuple[int, str]] = []  # level and text
        self._next = 0

    def at(self, place: int) -> str:
        """The headings above, from the outermost to the innermost; one at the place itself is not above it."""
        while self._next < len(self._headings) and self._headings[self._next][1] < place:
            level, start, end = self._headings[self._next]
            self._stack = [entry for entry in self._stack if entry[0] < level]
            self._stack.append((level, heading_text(self._text[start:end])))
            self._next += 1
        follows = self._next < len(self._headings) and self._headings[self._next][1] == place
        level = self._headings[self._next][0] if follows else VERBATIM
        names = [name for above, name in self._stack if name and above < level]
        if self._title:  # that of a chapter, "Book > Chapter", ends with its first heading
            names = [self._title, *names[names[:1] == [self._title.rpartition(BETWEEN)[2]] :]]
        return BETWEEN.join(map(_bounded, names))


def _bounded(heading: str) -> str:
    return heading if len(heading) <= _LONGEST_HEADING else heading[: _LONGEST_HEADING - 1].rstrip() + "…"
