"""How text becomes the tokens that an engine sees; shared by all engines, so that a score means the same in each.

What is wrong with one row is a `Refusal` of that row. Reads and writes no files.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from augment_service.model_folder import load_tokenizer
from data.errors import InputError
from data.records import DistillationExample, Prompt, Refusal, ScoreItem
from data.sentences import TokenCounter, word_counter

NUM_UNKNOWN_SHOWN = 12
CHARACTERS_PER_TOKEN = 64  # no tokenizer packs more of a long text into a token
TAIL = 256  # characters at the end of a shared context that are tokenized again with each text that follows it
HINTS = {
    "window": "put fewer documents in context, or use a model with a longer window, --model",
    "empty": "give the prompt and each option a text",
    "tokens": "use a model whose vocabulary has these tokens, --model",
}
Asked = TypeVar("Asked")
Found = TypeVar("Found")
Tokenizer = Any  # of transformers
load_once = lru_cache(maxsize=2)(load_tokenizer)
Text = tuple[str, str]  # a part that many texts share, and what follows it
Segment = tuple[str, str, bool]  # a text that is tokenized together, and whether its special tokens are split


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """Token ids: a `head` that many rows share, held once, and a `tail` of the row's own.

    Rows are equal if they share their head, the same object, and have equal tails.
    """

    head: Sequence[int]
    tail: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def __iter__(self) -> Iterator[int]:
        return chain(self.head, self.tail)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenRow) and self.head is other.head and self.tail == other.tail

    def __hash__(self) -> int:
        return hash((id(self.head), self.tail))

    def then(self, more: Sequence[int]) -> "TokenRow":
        """These tokens and more."""
        return TokenRow(self.head, (*self.tail, *more))

    @property
    def ids(self) -> list[int]:
        """All ids as one list."""
        return [*self.head, *self.tail]


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One continuation to score: the tokens that are read, and the tokens whose log-probabilities count."""

    prefix: TokenRow
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ItemTokens:
    """A score item in tokens: a pair for each continuation, and again without context if the item asks for it."""

    pairs: tuple[TokenPair, ...]
    unconditional: tuple[TokenPair, ...]


@dataclass(frozen=True, slots=True)
class ExampleTokens:
    """A distillation example in tokens: what the teacher reads, the tokens asked about, and the row of its student."""

    prefix: TokenRow
    path: list[int]
    row: list[int]


class _FlawError(Exception):
    """What is wrong with one row; becomes its `Refusal`."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(kind, what)
        self.kind, self.what = kind, what


class TextReader:
    """Rows to tokens, for a model with `num_ids` token embeddings and a window of `window` tokens (None: no limit).

    Special tokens that occur in a text are text, but for the frame of a row, which a chat template has rendered, and
    for all texts if `split_special_tokens` is False.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        window: int | None = None,
        num_ids: int | None = None,
        split_special_tokens: bool = True,
    ) -> None:
        self._tokenizer, self._window, self._num_ids = tokenizer, window, num_ids
        self._split = split_special_tokens
        start = tokenizer.bos_token_id
        begins = tokenizer("")["input_ids"][:1] == [start]
        self._start = [] if start is None or not begins else [start]
        # Ids that no text may contain, by whether special tokens are split. A vocabulary of whole words has them as
        # words, which cannot be split. GPT-2 has one token for unknown, start and end; its tokenizer knows every text.
        control = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        unknown = frozenset({tokenizer.unk_token_id} - control)
        self._unreadable = {True: (unknown | control) - {None}, False: unknown - {None}}
        added = tokenizer.added_tokens_decoder.values()  # a tokenizer names only some of those in its templates
        special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        # of contexts, which many prompts share
        self._holds_special = lru_cache(maxsize=64)(lambda text: any(token in text for token in special))
        self._joined = lru_cache(maxsize=64)(lambda before, context: before + context)

    def prompts(self, prompts: Sequence[Prompt]) -> list[TokenRow | Refusal]:
        """Token ids of `before + context + text + after` per prompt, which with `max_tokens` more fit into the window.

        A framed text is tokenized as a whole, as the template's users do. One that contains a special token itself is
        tokenized apart from its frame.
        """
        rows = []
        for prompt in prompts:
            apart = self._is_apart(prompt, prompt.context, prompt.text)
            rows.append(self._segments(prompt, prompt.context, prompt.text, apart=apart))
        ids_of = self._read(rows)

        def read(asked: tuple[Prompt, list[Segment]]) -> TokenRow:
            prompt, row = asked
            ids = ids_of(row)
            if not len(ids) or prompt.max_tokens < 1:
                raise _FlawError("empty", "max_tokens is below 1" if len(ids) else "the prompt is empty")
            self._check_window(len(ids) + prompt.max_tokens)
            return ids

        return _each(read, list(zip(prompts, rows, strict=True)), [prompt.prompt_id for prompt in prompts])

    def items(self, items: Sequence[ScoreItem]) -> list[ItemTokens | Refusal]:
        """The token pairs of each item.

        The scored text is `before + context + prompt + after + joiner + continuation`, tokenized as a whole. The
        continuation's tokens are those after the longest common prefix with the tokens of what precedes the joiner. So
        if the joined text tokenizes differently at the seam (a merge over the boundary), the tokens that changed count
        as part of the continuation, the last characters of the prompt included: the score is of tokens that the model
        would really see. The same holds for `unconditional` in place of `context + prompt`. A framed item that contains
        a special token is tokenized apart from its frame, and its continuations by themselves.
        """
        ids_of = self._read(row for item in items for rows in self._item_segments(item) for row in rows)

        def read(item: ScoreItem) -> ItemTokens:
            if not item.continuations or not all(c.strip() for c in item.continuations):
                raise _FlawError("empty", "an empty continuation has no likelihood")
            pairs = [self._pairs(*map(ids_of, rows)) for rows in self._item_segments(item)]
            return ItemTokens(pairs[0], pairs[1] if item.unconditional else ())

        return _each(read, items, [item.item_id for item in items])

    def examples(self, examples: Sequence[DistillationExample]) -> list[ExampleTokens | Refusal]:
        """Each text as its student reads it (between its start and end tokens, if there are any), after its context.

        The text is tokenized by itself, so that the places of teacher and student are the same: at the seam the teacher
        may read other tokens than it would write.
        """
        rows, texts = [], [[("", example.text, self._split)] for example in examples]
        for example in examples:
            apart = self._is_apart(example, example.context, example.prompt, example.reasoning)
            rows.append(self._segments(example, example.context, example.prompt, example.reasoning, apart=apart))
        ids_of = self._read([*rows, *texts])
        end = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]

        def read(asked: tuple[DistillationExample, list[Segment], list[Segment]]) -> ExampleTokens:
            example, row, own = asked
            before, text = ids_of(row), ids_of(own).ids
            if not (example.context or example.prompt) or len(text) < 2:
                raise _FlawError("empty", "an example needs a context, and a text of two tokens or more")
            first = tuple(text[len(self._start) : 1])  # a text's first token is not distilled
            prefix = TokenRow(before.head, before.tail + first)
            self._check_window(len(prefix) + len(text))  # with room for one more, which some strategies write
            return ExampleTokens(prefix, text[1:], text + end)

        asked = list(zip(examples, rows, texts, strict=True))
        return _each(read, asked, [example.text_id for example in examples])

    def ids(self, rows: Sequence[Sequence[int]], *, num_more: int) -> list[list[int] | Refusal]:
        """Rows of token ids as they are, checked; each with room for `num_more`. A refusal is named by its index."""

        def read(row: Sequence[int]) -> list[int]:
            if not row:
                raise _FlawError("empty", "there are no tokens")
            self._check_range(row)
            self._check_window(len(row) + num_more)
            return list(row)

        return _each(read, rows, map(str, range(len(rows))))

    def texts(self, texts: Sequence[str], *, where: str) -> list[list[int]]:
        """Token ids of whole texts. Raises InputError for what would be a row's refusal."""
        tokens_of = self._tokenized((("", text) for text in texts), split=self._split)
        try:
            return [tokens_of("", text).ids for text in texts]
        except _FlawError as flaw:
            raise InputError(flaw.what, where=where, hint=HINTS[flaw.kind]) from flaw

    def _is_apart(self, row: Prompt | ScoreItem | DistillationExample, *texts: str) -> bool:
        """Whether a row is tokenized apart from its frame: one of its texts contains a special token."""
        return bool(row.before or row.after) and self._split and any(map(self._holds_special, texts))

    def _segments(
        self, row: Prompt | ScoreItem | DistillationExample, context: str, text: str, answer: str = "", *, apart: bool
    ) -> list[Segment]:
        """A context and a text in the row's frame, and the `answer` after it; `apart` from the frame if need be."""
        if not (row.before or row.after):
            return [(context, text + answer, self._split)]
        if not apart:
            return [(self._joined(row.before, context), text + row.after + answer, False)]
        parts = [("", row.before, False), (context, text, True), ("", row.after, False)]
        return [*parts, ("", answer, True)] if answer else parts

    def _item_segments(self, item: ScoreItem) -> list[list[list[Segment]]]:
        """What precedes the continuations, and that with each of them; again for the text without context, if any."""
        apart = self._is_apart(item, item.context, item.prompt, item.unconditional, *item.continuations)
        answers = ["", *(item.joiner + continuation for continuation in item.continuations)]
        places = [(item.context, item.prompt)] + [("", item.unconditional)] * bool(item.unconditional)
        return [[self._segments(item, *place, answer, apart=apart) for answer in answers] for place in places]

    def _pairs(self, before: TokenRow, *rows: TokenRow) -> tuple[TokenPair, ...]:
        pairs = []
        for joined in rows:
            cut = seam(before.tail, joined.tail)  # both have the head of their context
            prefix = TokenRow(joined.head, joined.tail[:cut])
            if not len(prefix) or cut == len(joined.tail):
                what = "the continuation adds no token" if len(prefix) else "no token precedes the continuation"
                raise _FlawError("empty", what)
            self._check_window(len(joined))
            pairs.append(TokenPair(prefix, joined.tail[cut:]))
        return tuple(pairs)

    def _read(self, rows: Iterable[Sequence[Segment]]) -> Callable[[Sequence[Segment]], TokenRow]:
        """Tokenizes all segments of the rows; returns the function from a row to its tokens."""
        texts: dict[bool, dict[Text, None]] = {True: {}, False: {}}
        for shared, own, split in chain.from_iterable(rows):
            texts[split][shared, own] = None
        tokens_of = {split: self._tokenized(found, split=split) for split, found in texts.items()}

        def ids_of(row: Sequence[Segment]) -> TokenRow:
            ids, *more = (tokens_of[split](shared, own) for shared, own, split in row)
            rest = chain.from_iterable(part.ids[len(self._start) :] for part in more)
            return TokenRow(ids.head, (*ids.tail, *rest)) if more else ids

        return ids_of

    def _tokenized(self, texts: Iterable[Text], *, split: bool) -> Callable[[str, str], TokenRow]:
        """Tokenizes the texts; returns the function from each to its tokens, all of which the model knows.

        They have the tokenizer's beginning-of-text token and never an end token.
        """
        tokens = encode(self._tokenizer, texts, start=self._start, split_special_tokens=split)
        unreadable, is_known = self._unreadable[split], dict[int, bool]()  # by shared head, each looked at once

        def tokens_of(shared: str, own: str) -> TokenRow:
            row = tokens[shared, own]
            if id(row.head) not in is_known:
                self._check_range(row.head)
                is_known[id(row.head)] = unreadable.isdisjoint(row.head[len(self._start) :])
            if not (is_known[id(row.head)] and unreadable.isdisjoint(row.tail)):
                words = dict.fromkeys(word for part in (shared, own) for word in self._unknown_words(part, split))
                more = f" and {len(words) - NUM_UNKNOWN_SHOWN} more" if len(words) > NUM_UNKNOWN_SHOWN else ""
                shown = ", ".join([*words][:NUM_UNKNOWN_SHOWN]) or "some of these words"
                raise _FlawError("tokens", f"the model does not know: {shown}{more}")
            self._check_range(row.tail)
            return row

        return tokens_of

    def _unknown_words(self, text: str, split: bool) -> list[str]:
        if not text or not self._tokenizer.is_fast:
            return []
        options = {"return_offsets_mapping": True, "split_special_tokens": split}
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False, **options)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [text[a:b] for token, (a, b) in spans if token in self._unreadable[split]]

    def _check_range(self, ids: Sequence[int]) -> None:
        if self._num_ids is not None and ids and not 0 <= min(ids) <= max(ids) < self._num_ids:
            wrong = next(token for token in ids if not 0 <= token < self._num_ids)
            raise _FlawError("tokens", f"token id {wrong} is out of range: the model has {self._num_ids} tokens")

    def _check_window(self, needed: int) -> None:
        if self._window is not None and needed > self._window:
            raise _FlawError("window", f"{needed} tokens are needed, the model's window has {self._window}")


def _each(read: Callable[[Asked], Found], rows: Sequence[Asked], ids: Iterable[str]) -> list[Found | Refusal]:
    """What `read` makes of each row; what is wrong with a row is its refusal, named by its id."""
    found: list[Found | Refusal] = []
    for row, row_id in zip(rows, ids, strict=True):
        try:
            found.append(read(row))
        except _FlawError as flaw:
            found.append(Refusal(row_id, flaw.kind, flaw.what, HINTS[flaw.kind]))
    return found


def encode(
    tokenizer: Tokenizer, texts: Iterable[Text], start: Sequence[int] = (), *, split_special_tokens: bool = True
) -> dict[Text, TokenRow]:
    """Token ids of each distinct text `shared + own` after those of `start`, without special tokens.

    A long `shared` part is tokenized once, but for its last `TAIL` characters or more: those are tokenized with each
    `own` part, which may change them. It is tried on `shared` itself whether the pieces' tokens are those of the
    whole; if not (a tokenizer that looks far around), each text is tokenized as a whole.
    """
    distinct = dict.fromkeys(texts)
    heads: dict[str, tuple[Sequence[int], int]] = {}
    call = partial(tokenizer, add_special_tokens=False, verbose=False, split_special_tokens=split_special_tokens)
    begin = tuple(start)  # one object, the head of all texts that share nothing else
    for shared, count in Counter(shared for shared, _ in distinct).items():
        head, cut = _head(call, shared) if count > 2 and len(shared) > 2 * TAIL else ([], 0)
        heads[shared] = ([*begin, *head] if head else begin), cut
    if not distinct:
        return {}
    rests = [shared[heads[shared][1] :] + own for shared, own in distinct]
    tails = call(rests)["input_ids"]
    return {text: TokenRow(heads[text[0]][0], tuple(tail)) for text, tail in zip(distinct, tails, strict=True)}


def reading_order(texts: Sequence[Text]) -> list[int]:
    """An order in which texts with a shared part are neighbours; no text is copied for it."""
    places = {shared: place for place, shared in enumerate(dict.fromkeys(shared for shared, _ in texts))}
    return sorted(range(len(texts)), key=lambda at: (places[texts[at][0]], texts[at][1]))


def token_counter(tokenizer: str) -> TokenCounter:
    """Counts tokens as the model in that folder reads text; with "", words."""
    if not tokenizer:
        return word_counter
    read = load_once(Path(tokenizer))
    return lambda texts: [len(ids) for ids in read(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def check_context(context: str, window: int, tokenizer: str, *, room: int, where: str) -> None:
    """Raise InputError if a context and `room` tokens more exceed the window of a model with that tokenizer."""
    needed = len(load_once(Path(tokenizer))(context, add_special_tokens=False, verbose=False)["input_ids"]) + room
    if needed > window:
        raise InputError(
            f"at least {needed:,} tokens are needed, the window has {window:,}",
            where=where,
            hint="sample the documents (--context sample:8), use local methods only, or a model with a longer window",
        )


def _head(call: Callable[[list[str]], Any], text: str) -> tuple[list[int], int]:
    """Tokens of a beginning of `text`, and the character from which the rest can be tokenized by itself."""
    cut = text.rfind(" ", 0, len(text) - TAIL)
    if cut < 1:
        return [], 0
    # A tokenizer that puts a space before every text must not see the one that is there already.
    begins = (cut, cut + 1)
    pieces = [text, text[:cut], *(text[begin:] for begin in begins)]
    whole, head, *tails = call(pieces)["input_ids"]
    return next(((head, begin) for begin, tail in zip(begins, tails, strict=True) if head + tail == whole), ([], 0))


def seam(before: Sequence[int], joined: Sequence[int]) -> int:
    """The index in `joined` at which the continuation begins: the length of the longest common prefix."""
    if joined[: len(before)] == before:
        return len(before)
    pairs = zip(before, joined, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(before), len(joined)))
