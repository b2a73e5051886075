"""The texts that a run learns from: which rows of which Arrow folders, and their division into sentences.

Reads: sealed Arrow folders, memory-mapped. Writes: nothing. Imports no torch.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from data.cache import cached_hash
from data.errors import InputError
from data.records import Augmentation, Conversation, Distribution
from data.seeds import fingerprint
from data.sentences import cumulate, split_sentences
from data.store import MANIFEST, is_sealed, read_manifest, read_table
from data.store import content_of as content_hash

ROWS_AT_ONCE = 1024  # texts held as Python strings at a time
OUTLINE = "outline"
ID_COLUMNS = ("augmentation_id", "text_id", "doc_id")  # an augmentation has its document's too
PROMPT, FORM, CHAT = "prompt", "form", "chat"  # columns of augmentations, and the value of a chat row
_CHAT_MARK = b"\xff" * 8  # no text has this length


@dataclass(frozen=True, slots=True)
class TextSource:
    """Rows of a sealed Arrow folder that has a `text` column. Producer: `pipeline`. Consumer: `train`.

    `corpus` and `methods` select rows; empty selects all. `verdict_kept_only` drops rejected augmentations. `weight`
    is the share of the trained tokens that come from here, relative to the other sources' weights; all sources have
    one or none has. A source with a `share` is replay: it gives that share of all trained tokens, whatever the others
    are, and has no weight. The text of `prompt_column`, if it is named, precedes each text without being learned.
    `split` makes a training text of each sentence ("independent") or of each prefix of sentences ("cumulative"). A
    folder of `Conversation` records has a training text for each turn of the assistant, one of `Distribution` records
    has its own tokens. Each row of a folder of `Augmentation` records says by itself what precedes its text, and
    whether the two are turns of a chat, unless columns are named.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # where a run is read from JSON

    folder: str
    corpus: str = ""
    verdict_kept_only: bool = False
    methods: tuple[str, ...] = ()
    weight: float | None = None
    share: float = 0.0
    text_column: str = "text"
    prompt_column: str = ""
    split: Literal["none", "independent", "cumulative"] = "none"

    def __post_init__(self) -> None:
        if self.split != "none" and self.prompt_column:
            raise InputError(
                "texts with prompts cannot be split into sentences",
                where="train.split_sentences",
                hint="leave the prompt column out, or use none",
            )


class TextRows(NamedTuple):
    """Some training texts, what precedes each without being learned, and whether the two are turns of a chat."""

    texts: list[str]
    prompts: list[str]
    chats: list[bool]


def check_mix(sources: Sequence[TextSource], *, where: str) -> None:
    """Refuse invalid weights of sources: negative ones, none above 0, some sources without one; and shares of 1."""
    weights = [source.weight for source in sources if not source.share]
    shares = [source.share for source in sources]
    if any(not 0 <= share < 1 for share in shares) or (shares and not sum(shares) < 1):
        what, hint = f"the shares of replay leave nothing to the other texts: {shares}", "lower train.replay_share"
        raise InputError(what, where=where, hint=hint)
    given = [weight for weight in weights if weight is not None]
    problems = {
        f"{len(weights) - len(given)} of {len(weights)} sources have no weight": len(given) < len(weights),
        f"a weight is negative or not a number: {given}": any(not 0 <= weight < math.inf for weight in given),
        f"the weights of the sources sum to zero: {given}": sum(given) == 0,
    }
    for problem, applies in problems.items():
        if given and applies:
            raise InputError(problem, where=where, hint="give every source a weight of 0 or more, or none a weight")


def weights_of(sources: Sequence[TextSource]) -> list[float]:
    """A weight for each source, 0 for replay; none where the sources have none."""
    weighted = any(source.weight is not None for source in sources)
    return [source.weight or 0.0 for source in sources] if weighted else []


def replay_shares(sources: Sequence[TextSource]) -> dict[int, float]:
    """The share of the trained tokens of each source of replay, by its index."""
    return {index: source.share for index, source in enumerate(sources) if source.share}


def read_rows(source: TextSource) -> Iterator[TextRows]:
    """The rows of a source in chunks, from memory-mapped shards.

    Texts are split into sentences here, so whatever counts, hashes or tokenizes texts sees what is trained.
    """
    columns = {source.text_column, source.prompt_column} - {""}
    if is_conversation(source):
        _refuse_ignored(source)
    own = {PROMPT, FORM} if _has_forms(source) else set()
    for table in _tables(source, columns):
        wanted = columns | (own & set(table.column_names))
        wanted |= {OUTLINE} & set(table.column_names) if source.split != "none" else set()
        for batch in table.select(sorted(wanted)).to_batches(max_chunksize=ROWS_AT_ONCE):
            rows = _rows_of(batch, source, has_forms=bool(own))
            if source.split == "none":
                yield rows
                continue
            if any(rows.prompts) or any(rows.chats):
                what, hint = "rows with prompts cannot be split into sentences", "set train.split_sentences to none"
                raise InputError(what, where=source.folder, hint=hint)
            pieces = (
                piece
                for pair in zip(rows.texts, _outlines(batch, source), strict=True)
                for piece in _split(*pair, source)
            )
            while chunk := list(islice(pieces, ROWS_AT_ONCE)):
                yield TextRows(chunk, [""] * len(chunk), [False] * len(chunk))


def _rows_of(batch: pa.RecordBatch, source: TextSource, *, has_forms: bool) -> TextRows:
    """The rows of a batch; those of a folder without forms are plain texts. Raises InputError for what is no text."""
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    nothing = [""] * batch.num_rows
    prompt_column = PROMPT if has_forms else source.prompt_column
    prompts = columns.get(prompt_column, nothing)
    for name, column in ((source.text_column, columns[source.text_column]), (prompt_column, prompts)):
        if any(not isinstance(value, str) for value in column):
            what, hint = (
                f'the column "{name}" holds values that are not text',
                "drop these rows, or name another column",
            )
            raise InputError(what, where=source.folder, hint=hint)
    forms = columns.get(FORM, nothing) if has_forms else nothing
    return TextRows(columns[source.text_column], prompts, [form == CHAT for form in forms])


def _refuse_ignored(source: TextSource) -> None:
    """Refuse the settings that conversations do not have."""
    given = {
        "train.split_sentences": source.split != "none",
        "--prompt-column": source.prompt_column,
        "--text-column": source.text_column != "text",
    }
    for name, is_given in given.items():
        if is_given:
            what = f"{name} has no effect on conversations"
            raise InputError(what, where=source.folder, hint=f"leave {name} out, or name documents")


def _outlines(rows: pa.RecordBatch | pa.Table, source: TextSource) -> list[Sequence[int]]:
    """The outline of each row's text, which says what of it is no sentence; other columns have none."""
    if OUTLINE not in rows.schema.names or source.text_column != "text":
        return [()] * rows.num_rows
    return [outline or () for outline in rows.column(OUTLINE).to_pylist()]


def _split(text: str, outline: Sequence[int], source: TextSource) -> Iterable[str]:
    """The training texts of a text that is split."""
    sentences = split_sentences(text, outline)
    return sentences if source.split == "independent" else cumulate(sentences)


def name_texts(source: TextSource, positions: Sequence[int]) -> list[str]:
    """Names of training texts, given by their positions in the source: the ids of their rows, or the rows' numbers."""
    names: list[str] = []
    num_rows = 0
    for table in _tables(source):
        column = next((name for name in ID_COLUMNS if name in table.column_names), None)
        rows = table[column].to_pylist() if column else [f"row {num_rows + row}" for row in range(table.num_rows)]
        num_rows += table.num_rows
        if source.split != "none":
            texts = table[source.text_column].to_pylist()
            pairs = zip(rows, texts, _outlines(table, source), strict=True)
            rows = [row for row, text, outline in pairs for _ in _split(text, outline, source)]
        names += rows
    return [names[position] for position in positions]


def find_ids(source: TextSource, ids: Sequence[str]) -> dict[str, int]:
    """The positions in the source of the texts with these ids, as far as it has them; the inverse of `name_texts`.

    Sources that are split into sentences are not searched.
    """
    found: dict[str, int] = {}
    num_rows = 0
    for table in _tables(source) if source.split == "none" else ():
        column = next((name for name in ID_COLUMNS if name in table.column_names), None)
        if column:
            places = pc.index_in(pa.array(ids, pa.string()), value_set=table[column].combine_chunks()).to_pylist()
            found |= {name: num_rows + at for name, at in zip(ids, places, strict=True) if at is not None}
        num_rows += table.num_rows
    return found


def no_texts(sources: Sequence[TextSource]) -> InputError:
    """The error for an empty mix."""
    return InputError(
        "no texts to train on",
        where="; ".join(map(str, sources)) or "an empty list of sources",
        hint="check the folders, the corpus name, and whether any augmentation was kept",
    )


def is_distribution(source: TextSource) -> bool:
    """Whether the folder holds a teacher's distributions, with tokens of their own."""
    return read_manifest(Path(source.folder)).get("record") == Distribution.__name__


def is_conversation(source: TextSource) -> bool:
    """Whether the folder holds conversations, of which the assistant's turns are learned."""
    return read_manifest(Path(source.folder)).get("record") == Conversation.__name__


def has_turns(source: TextSource) -> bool:
    """Whether some of the texts are turns of the assistant, which a chat template renders. Reads the rows' forms."""
    if is_conversation(source):
        return True
    return _has_forms(source) and _any_chat(replace(source, weight=None, share=0.0), _stamp(source))


def _has_forms(source: TextSource) -> bool:
    """Whether each row says what precedes its text: those of augmentations do, unless other columns are named."""
    is_plain = source.text_column == "text" and not source.prompt_column
    return is_plain and read_manifest(Path(source.folder)).get("record") == Augmentation.__name__


@lru_cache(maxsize=256)
def _any_chat(source: TextSource, stamp: int) -> bool:
    tables = (table for table in _tables(source) if FORM in table.column_names)
    return any(pc.any(pc.equal(table[FORM], CHAT)).as_py() for table in tables)


def content_of(source: TextSource) -> str:
    """A hash of the texts that a source yields, independent of the folder's path and of its division into shards."""
    return _content_of(replace(source, weight=None, share=0.0), _stamp(source))


def _stamp(source: TextSource) -> int:
    """Changes with the folder. Raises InputError if it is not finished."""
    return (Path(source.folder) / MANIFEST).stat().st_mtime_ns if shards_of(source) else 0


@lru_cache(maxsize=256)  # the runs of a study share their texts
def _content_of(source: TextSource, stamp: int) -> str:
    files = [Path(source.folder) / MANIFEST, *shards_of(source)]
    return cached_hash("texts", files, lambda: _hash_texts(source), source)


def _hash_texts(source: TextSource) -> str:
    if is_distribution(source):
        return fingerprint("distributions", content_hash(Path(source.folder)))
    digest = hashlib.blake2b(digest_size=16)
    for texts, prompts, chats in read_rows(source):
        for *row, is_chat in zip(prompts, texts, chats, strict=True):
            digest.update(_CHAT_MARK * is_chat)
            for part in row:
                content = part.encode()
                digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def shards_of(source: TextSource) -> list[Path]:
    """The shards of a source's folder, in order. Raises InputError if the folder is not finished."""
    folder = Path(source.folder)
    if not is_sealed(folder):
        raise InputError(
            "no finished Arrow folder here (its manifest.json is missing)",
            where=str(folder),
            hint="run the command that writes this folder again; it resumes where it stopped",
        )
    return sorted(folder.glob("*.arrow"))


def _tables(source: TextSource, columns: Iterable[str] = ()) -> Iterator[pa.Table]:
    """The rows that the source selects, shard by shard. Raises InputError if they lack one of `columns`."""
    selected = {"corpus": [source.corpus] * bool(source.corpus), "method": list(source.methods)}
    selected["verdict"] = ["kept"] * source.verdict_kept_only
    selected = {column: values for column, values in selected.items() if values}
    for shard in shards_of(source):
        table = read_table(shard)
        if missing := {*columns, *selected}.difference(table.column_names):
            raise InputError(
                f"no column {', '.join(sorted(missing))}; the columns are {', '.join(table.column_names)}",
                where=source.folder,
                hint="name a folder of documents or augmentations",
            )
        for column, values in selected.items():
            table = table.filter(pc.is_in(table[column], value_set=pa.array(values)))
        yield table
