"""What answers have been like so far: tokens and bytes of an answer, by method. Reads the shards of a ledger."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.rendering import Template
from data.store import read_table

_MOST_SHARDS = 256
_LEAST_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean answer to the prompts of a method: tokens written, and bytes of its rows in a shard."""

    answers: int
    new_tokens: float
    bytes: float


def measure_answers(parts: Path, templates: Sequence[Template], models: Collection[str]) -> dict[str, Measured]:
    """The mean answers by method, by some models; without those of which there are too few."""
    counts: dict[str, list[float]] = {}
    names = {template.fingerprint: template.method for template in templates}
    for shard in sorted(parts.glob("*.arrow"))[:_MOST_SHARDS]:
        table = read_table(shard)
        if "tokens" not in table.column_names or not table.num_rows:
            continue
        for template in pc.unique(table["template"]).to_pylist():
            if template in names:
                own = table.filter(pc.equal(table["template"], template))
                own = own.filter(pc.is_in(own["model"], value_set=pa.array(list(models))))
                # one for each answer: its first row has them
                written = pc.list_element(own.filter(pc.equal(pc.list_value_length(own["tokens"]), 2))["tokens"], 1)
                found = counts.setdefault(names[template], [0, 0, 0])
                found[0] += len(written)
                found[1] += pc.sum(written).as_py() or 0
                found[2] += own.nbytes
    return {
        method: Measured(int(answers), tokens / answers, size / answers)
        for method, (answers, tokens, size) in counts.items()
        if answers >= _LEAST_ANSWERS
    }
