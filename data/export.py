"""Export to Parquet or JSON lines, with a dataset card that `datasets.load_dataset` reads.

Reads sealed folders of Arrow shards, shard by shard. Writes `documents/`, `questions/`, `augmentations/` (one file per
split) and `README.md`, whose header names the files, their splits and their columns.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from data.errors import InputError
from data.preview import count_values, counts_of
from data.records import Augmentation, Conversation, Document, Question
from data.store import dtype_of, list_shards, read_manifest, read_table, temporary_path, write_text

PARTS = {
    "documents": Document, "conversations": Conversation, "questions": Question, "augmentations": Augmentation
}  # fmt: skip
_ABOUT = {
    "documents": "Texts to learn from. `corpus` names the documents that belong together.",
    "conversations": 'Conversations to learn from: `text` is JSON, a list of `{"role": ..., "content": ...}`.',
    "questions": "Forced choices: which of `options` continues `prompt`, after `joiner`? `answer` is the index of the "
    "right one. `split` and `inference` name the kind of question, `fact_id` the fact that it tests, "
    "`requires` the documents that hold what is needed.",
    "augmentations": "Inferences that a model wrote down about `sentence` of the documents `sources`. `verdict` is "
    "kept, or the reason for the rejection; `template`, `model` and `context_id` are content hashes. What is learned "
    "is `text`: with the `form` chat it answers the turn `prompt` of the user, else it follows `prompt`.",
}
FORMATS = {"parquet": ".parquet", "jsonl": ".jsonl"}
CARD = "README.md"
_MARK = "<!-- written by entail -->"
_WHOLE = "train"  # the default name for rows without splits
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MAX_EXAMPLE_CHARACTERS = 300


@dataclass(frozen=True)
class Part:
    """One part of an export: its shards and schema, file and number of rows by split, and its first row."""

    name: str
    shards: list[Path]
    schema: pa.Schema
    files: dict[str, Path]
    num_rows: dict[str, int]
    example: dict[str, Any]


def export(folder: Path, out: Path, kind: str) -> list[Part]:
    """Write the rows of a generated set, an import or a folder of shards into `out`, with a card.

    `kind` is "parquet", "jsonl", or "card": the card alone beside the files of an earlier export, or else with Parquet.
    Raises InputError if there are no rows, a folder is unfinished, or `out` holds another README.md.
    """
    sources = _find_parts(folder)
    card = out / CARD
    if card.exists() and _MARK not in card.read_text(errors="replace"):
        raise InputError("there is another README.md already", where=str(out), hint="choose an empty --out")
    is_rewritten = kind != "card"
    if not is_rewritten:
        kind = next((k for k, end in FORMATS.items() if any(out.glob(f"*/*{end}"))), "parquet")
    parts = [_plan(name, source, out / name, FORMATS[kind]) for name, source in sources.items()]
    for part in parts:
        if is_rewritten or not all(path.exists() for path in part.files.values()):
            _write(part)
    write_text(card, _card(folder, out, parts))
    return parts


def _find_parts(folder: Path) -> dict[str, Path]:
    """The folders of shards by part: those inside, or `folder` itself."""
    inner = {name: folder / name for name in PARTS if any((folder / name).glob("*.arrow"))}
    if "documents" in inner and read_manifest(inner["documents"]).get("record") == Conversation.__name__:
        inner = {"conversations": inner.pop("documents"), **inner}
    if inner:
        return inner
    record = read_manifest(folder).get("record")
    for name, known in PARTS.items():
        if record == known.__name__:
            return {name: folder}
    raise InputError(
        "no documents, questions or augmentations here",
        where=str(folder),
        hint="name a generated set, an import, or the output of `augment`",
    )


def _plan(name: str, source: Path, target: Path, suffix: str) -> Part:
    """The files of a part: one for each split of questions, a single one for everything else."""
    shards = list_shards(source, PARTS[name])
    tables = [read_table(path) for path in shards]
    counts = {_WHOLE: sum(table.num_rows for table in tables)}
    if name == "questions":
        counts = count_values(tables, "split")
    first = next((_with_nulls(table.slice(0, 1)) for table in tables if table.num_rows), None)
    example = first.to_pylist()[0] if first is not None else {}
    files = {split: target / f"{plain}{suffix}" for split, plain in _plain_names(sorted(counts)).items()}
    return Part(name, shards, tables[0].schema, files, counts, example)


def _write(part: Part) -> None:
    """Stream the shards into the files of the part, each under a temporary name until it is complete."""
    for split, path in part.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        with _sink(temporary, path.suffix, part.schema) as write:
            for shard in part.shards:
                table = read_table(shard)
                if part.name == "questions":
                    table = table.filter(pc.equal(table["split"], split))
                write(_with_nulls(table))
        os.replace(temporary, path)


def _with_nulls(table: pa.Table) -> pa.Table:
    """The table with null in place of NaN, which marks what was not measured and which JSON has no word for."""
    for index, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(index)
            table = table.set_column(index, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column))
    return table


@contextmanager
def _sink(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:
    """A file of rows, as a function that appends a table."""
    if suffix == FORMATS["parquet"]:
        with pq.ParquetWriter(path, schema) as writer:
            yield writer.write_table
    else:
        with path.open("w", encoding="utf-8") as file:
            yield lambda table: file.writelines(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
                for batch in table.to_batches(max_chunksize=4096)
                for row in batch.to_pylist()
            )


def _card(folder: Path, out: Path, parts: list[Part]) -> str:
    """The card: a header for `datasets`, then a description for people."""
    counts = counts_of(folder)
    name = str(counts.get("set", folder.resolve().name))
    total = sum(sum(part.num_rows.values()) for part in parts)
    header = {
        "pretty_name": name,
        "license": "unknown",
        "tags": ["entail"],
        "size_categories": [next((label for bound, label in _SIZES if total < bound), "n>1M")],
        "configs": [_config(part, out, is_first=index == 0) for index, part in enumerate(parts)],
        "dataset_info": [_info(part) for part in parts],
    }
    lines = [f"# {name}", "", _MARK, ""]
    lines += ["| part | split | rows | file |", "|---|---|---|---|"]
    for part in parts:
        for split, path in part.files.items():
            lines.append(f"| {part.name} | {split} | {part.num_rows[split]} | `{path.relative_to(out)}` |")
    if counts:
        lines += ["", "## How it was made", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in counts.items()]
    for part in parts:
        lines += ["", f"## {part.name.capitalize()}", "", _ABOUT[part.name]]
        lines += ["", "```json", json.dumps(_shortened(part.example), ensure_ascii=False, indent=1), "```"]
    lines += ["", "## To read it", "", "```python", "import datasets", ""]
    lines += [f'{part.name} = datasets.load_dataset("PATH", "{part.name}")' for part in parts]
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n" + "\n".join([*lines, "```", ""])


def _config(part: Part, out: Path, *, is_first: bool) -> dict[str, Any]:
    """The files of each split. `load_dataset` loads the first part by default."""
    files = [{"split": path.stem, "path": str(path.relative_to(out))} for path in part.files.values()]
    return {"config_name": part.name, "data_files": files} | ({"default": True} if is_first else {})


def _info(part: Part) -> dict[str, Any]:
    """The columns and the rows of each split: JSON lines do not define the element type of an empty list."""
    splits = [
        {"name": path.stem, "num_bytes": path.stat().st_size, "num_examples": part.num_rows[split]}
        for split, path in part.files.items()
    ]
    return {"config_name": part.name, "features": [_feature(entry) for entry in part.schema], "splits": splits}


def _feature(entry: pa.Field) -> dict[str, str]:
    if pa.types.is_list(entry.type):
        return {"name": entry.name, "list": dtype_of(entry.type.value_type)}
    return {"name": entry.name, "dtype": dtype_of(entry.type)}


def _plain_names(splits: Sequence[str]) -> dict[str, str]:
    """For each split a distinct name of letters, digits and underscores, as `datasets` requires."""
    names: dict[str, str] = {}
    for split in splits:
        plain = re.sub(r"\W+", "_", split, flags=re.ASCII).strip("_") or "split"
        taken = set(names.values())
        names[split] = next(name for name in (plain, *(f"{plain}_{n}" for n in range(2, 99))) if name not in taken)
    return names


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    long = _MAX_EXAMPLE_CHARACTERS
    return {k: f"{v[:long]} ..." if isinstance(v, str) and len(v) > long else v for k, v in row.items()}
