"""What training needs at scale: the tables of docs/scale.md, from three public shapes. Reads and writes nothing.

python -m train.plan.scale
"""

import dataclasses
from collections.abc import Iterator, Sequence

from train.plan.shapes import Shape, shape_of
from train.plan.sizing import GIB, STAGES, Setup, plan, sent_bytes, smallest_stage, trained_parameters

GPUS, GPU_BYTES = 8, 80 * GIB  # of a node, of a GPU
NODES = (1, 2, 4, 8, 16, 32, 64)
ROW_TOKENS = 4096
LLAMA = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 131_072}
SIZES = {  # hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tie_word_embeddings
    "1B (Llama 3.2)": (2048, 8192, 16, 32, True),
    "8B (Llama 3.1)": (4096, 14_336, 32, 32, False),
    "70B (Llama 3.1)": (8192, 28_672, 80, 64, False),
}


def shapes() -> dict[str, Shape]:
    """The three shapes by name."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "tie_word_embeddings")
    return {name: shape_of(LLAMA | dict(zip(names, sizes, strict=True))) for name, sizes in SIZES.items()}


def usual(ranks: int) -> Setup:
    """One text a rank, packed, activations computed again; the stage is set later."""
    return Setup(stage=0, ranks=ranks, rows=1, row_tokens=ROW_TOKENS, on_gpu=True, checkpointing=True)


def memory_table(name: str, shape: Shape) -> Iterator[str]:
    """Full finetuning over nodes: GiB a GPU by stage, the smallest stage that fits, GB sent, the host's GiB a node."""
    yield f"### {name}: {shape.parameters:,} parameters"
    yield ""
    columns = ["nodes", "GPUs", *(f"stage {stage}" for stage in STAGES), "smallest that fits"]
    columns += ["GB sent a step, stages 0-2", "stage 3", "host's GiB a node"]
    yield from _head(columns)
    for nodes in NODES:
        setups = [dataclasses.replace(usual(nodes * GPUS), stage=stage) for stage in STAGES]
        plans = [plan(shape, setup) for setup in setups]
        smallest = smallest_stage(shape, setups[0], GPU_BYTES)
        cells = [nodes, nodes * GPUS, *(f"{found.total / GIB:.1f}" for found in plans)]
        cells += ["none" if smallest is None else smallest]
        cells += [f"{sent_bytes(shape, setups[stage]) / 1e9:.1f}" for stage in (0, 3)]
        yield _row([*cells, f"{GPUS * plans[-1].host / GIB:.0f}"])


def other_ways(found: dict[str, Shape]) -> Iterator[str]:
    """One node of GPUs, and what adapters and offload change at the smallest stage that fits."""
    yield "### One node, other ways"
    yield ""
    parts = ("weights", "gradients", "optimizer", "buffers", "activations", "logits")
    yield from _head(["model", "way", "trained parameters", "stage", *parts, "total", "host's GiB a node"])
    base = usual(GPUS)
    ways = {
        "full": base,
        "full, activations kept": dataclasses.replace(base, checkpointing=False),
        "full, offload to the host": dataclasses.replace(base, stage=1, offload="cpu"),
        "adapters of rank 16": dataclasses.replace(base, adapter_rank=16),
    }
    for name, shape in found.items():
        for way, setup in ways.items():
            stage = smallest_stage(shape, setup, GPU_BYTES)
            needed = plan(shape, dataclasses.replace(setup, stage=3 if stage is None else stage))
            numbers = [f"{needed.parts()[part] / GIB:.1f}" for part in parts]
            said = "none fits; 3:" if stage is None else stage
            trained = f"{trained_parameters(shape, setup):,}"
            cells = [name, way, trained, said, *numbers, f"{needed.total / GIB:.1f}", f"{GPUS * needed.host / GIB:.0f}"]
            yield _row(cells)


def tables() -> str:
    """All tables, as Markdown."""
    found = shapes()
    lines: list[str] = []
    for name, shape in found.items():
        lines += [*memory_table(name, shape), ""]
    return "\n".join([*lines, *other_ways(found)])


def _head(columns: Sequence[str]) -> list[str]:
    return [_row(columns), _row(["---"] * len(columns))]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    print(tables())
