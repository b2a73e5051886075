"""The published reversal-curse files (Berglund et al. 2023) as a world: JSONL rows {"prompt", "completion"}.

Reads from one folder the training rows, `all_prompts_train.jsonl` or else `p2d_`, `d2p_` and
`both_prompts_train.jsonl`, and the tests, `p2d_reverse_prompts_test.jsonl` (or `..._randomized.jsonl`) and, if present,
`d2p_prompts_test.jsonl`.

Splits: `reversal` (description -> name about people whose name came first in training) and `rephrased` (description ->
name as trained, in the tests' wording). A name is what a completion begins with; wrong options are names that
complete training rows.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.seeds import stream
from data.sets.blocks import NUM_OPTIONS, Item
from data.sets.language import Statement
from data.sets.world import World

SPLIT_TRAIN = ("p2d_prompts_train.jsonl", "d2p_prompts_train.jsonl", "both_prompts_train.jsonl")
WHOLE_TRAIN = ("all_prompts_train.jsonl",)
REVERSED = ("p2d_reverse_prompts_test.jsonl", "p2d_reverse_prompts_test_randomized.jsonl")
TRAINED = ("d2p_prompts_test.jsonl",)
_NAME = re.compile(r"\s*([A-Z][\w'’.-]*(?: [A-Z][\w'’-]*)+)")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a published file. Producer: `read_rows`. Consumer: `read_world`."""

    prompt: str
    completion: str

    @property
    def name(self) -> str:
        """The name that the completion begins with; "" if it begins with none."""
        found = _NAME.match(self.completion)
        return found.group(1).rstrip(".") if found else ""


def read_world(folder: Path, *, seed: int) -> World:
    """The published documents and questions; the seed decides the wrong options and their order.

    InputError where a file is missing or a line is broken, with file and line.
    """
    whole = folder / WHOLE_TRAIN[0]
    train = [row for name in (WHOLE_TRAIN if whole.exists() else SPLIT_TRAIN) for row in read_rows(folder / name)]
    world = World("reversal-curse/published", stream(seed, "reversal-curse", "published"))
    for row in train:
        world.add_document(row.prompt.rstrip() + " " + row.completion.strip())
    ended = sorted({row.name for row in train} - {""})
    asked = _asked(folder, REVERSED, "reversal", required=True) + _asked(folder, TRAINED, "rephrased", required=False)
    mentions = _find_mentions(world, {row.name for _, row in asked})
    for split, row in asked:
        _ask(world, split, row, ended, mentions.get(row.name, ()))
    return world


def read_rows(path: Path) -> list[Row]:
    """The rows of one file; empty lines are skipped."""
    if not path.is_file():
        raise InputError(
            "this file of the published reversal-curse set is missing",
            where=str(path),
            hint=f"name the folder that holds {WHOLE_TRAIN[0]} (or {', '.join(SPLIT_TRAIN)}) and {REVERSED[0]}",
        )
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_read_row(line, f"{path}, line {number}"))
    return rows


def _read_row(line: bytes, where: str) -> Row:
    hint = 'each line must be {"prompt": TEXT, "completion": TEXT}'
    try:
        content = json.loads(line)
    except ValueError as error:  # broken JSON, or bytes that are not UTF-8
        raise InputError(f"this line is not JSON: {error}", where=where, hint=hint) from error
    found = content if isinstance(content, dict) else {}
    prompt, completion = found.get("prompt"), found.get("completion")
    if not (isinstance(prompt, str) and isinstance(completion, str) and prompt.strip() and completion.strip()):
        raise InputError("no prompt or no completion", where=where, hint=hint)
    return Row(prompt, completion)


def _asked(folder: Path, names: Sequence[str], split: str, *, required: bool) -> list[tuple[str, Row]]:
    path = next((folder / name for name in names if (folder / name).exists()), folder / names[0])
    rows = read_rows(path) if required or path.exists() else []
    unnamed = next((row for row in rows if not row.name), None)
    if unnamed:
        raise InputError(
            f"a completion that begins with no name: {unnamed.completion!r}",
            where=str(path),
            hint="give the file whose completions are names",
        )
    return [(split, row) for row in rows]


def _find_mentions(world: World, names: Iterable[str]) -> dict[str, list[str]]:
    """The documents that name a person."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for document in world.documents:
        for name in _NAME.findall(document.text):
            for known in (name, " ".join(name.split()[-2:])):
                if known in found:
                    found[known].append(document.doc_id)
                    break
    return found


def _ask(world: World, split: str, row: Row, ended: Sequence[str], requires: Sequence[str]) -> None:
    others = [name for name in ended if name != row.name]
    if len(others) < NUM_OPTIONS - 1:
        raise InputError(
            f"only {len(others)} names complete a training row, {NUM_OPTIONS - 1} are needed for wrong options",
            where="the training files",
            hint="give all training files of the set",
        )
    fact = Statement("is", "", row.name, "")
    world.documents_of[fact] = list(requires)
    wrong = world.rng.sample(others, NUM_OPTIONS - 1)
    world.ask(split, row.prompt.rstrip(), [row.name, *wrong], Item(fact, (fact,), split))
