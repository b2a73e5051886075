"""`pretrain`: the embedded model from scratch, then measured, then described in a model card.

Writes the model folder: safetensors, tokenizer, `prompts.toml`, `reference.json`, `README.md` (the card),
`measures.json`.
"""

import json
import shutil
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from augment_service.reference import FILE, compute_reference, write_reference
from data.errors import InputError
from data.rendering import BOOK_NAME, NONSENSE
from data.sets.registry import make_worlds
from data.store import write_json
from data.weights import weights_fingerprint
from models.pretrain.card import write_card
from models.pretrain.loop import PretrainPlan, pretrain
from models.pretrain.measure import (
    Share,
    measure_choices,
    measure_generations,
    measure_inferences,
    measure_questions,
    sample_test_world,
)
from models.pretrain.reader import Reader
from pipeline.data_section import SETS
from pipeline.progress import bar

MEASURES = "measures.json"
MEASURE_SEED = 1_000_003  # a stream of worlds that no pretraining document comes from
NUM_WORLDS = 20
TEMPERATURE = 0.7


def run(flags: Namespace) -> None:
    """`pretrain`: make the model unless it is only to be measured, then measure it."""
    if not flags.measure_only:
        make_model(flags.out, flags.seed, flags.threads)
    measure_model(flags.out, flags.threads)


def make_model(folder: Path, seed: int, threads: int) -> None:
    """Pretrain into a folder beside `folder` and put it in its place when it is whole."""
    if (folder / "config.json").exists():
        raise InputError(
            "the folder holds a model already", where=str(folder), hint="choose another --out, or delete the folder"
        )
    torch.set_num_threads(threads)
    plan = PretrainPlan(seed=seed)
    work = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    with bar(Console(), "pretrain", plan.total_steps) as shown:

        def show(metrics: dict[str, float]) -> None:
            note = f"length {metrics['length']}  loss {metrics['loss']:.2f}  answers {metrics['running']:.2f}"
            shown.update(int(metrics["step"]) + 1, note)

        pretrain(plan, work, show)
    shutil.copyfile(NONSENSE, work / BOOK_NAME)
    write_reference(work / FILE, compute_reference(work))
    write_json(
        work / "pretraining.json", {**asdict(plan), "seconds": round(time.monotonic() - started), "threads": threads}
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work.rename(folder)


def measure_model(folder: Path, threads: int) -> dict[str, dict[str, Share]]:
    """Measure the model in `folder` on fresh worlds, print the table, write `measures.json` and the card."""
    if not (folder / "config.json").exists():
        raise InputError("no model here", where=str(folder), hint="make it first: python -m pipeline pretrain")
    torch.set_num_threads(threads)
    reader = Reader(LlamaForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder))
    measured: dict[str, dict[str, Share]] = {}
    with Console().status("measuring on fresh worlds"):
        worlds = [sample_test_world(MEASURE_SEED, index, num_facts=78) for index in range(NUM_WORLDS)]
        measured["78 facts"] = measure_choices(reader, worlds, MEASURE_SEED)
        measured["generations"] = measure_generations(reader, worlds, TEMPERATURE, MEASURE_SEED)
        for num_facts in (150, 190, 237):
            longer = [sample_test_world(MEASURE_SEED, index, num_facts=num_facts) for index in range(NUM_WORLDS // 2)]
            tokens = max(len(reader.tokenizer(world.context)["input_ids"]) for world in longer)
            measured[f"{num_facts} facts, up to {tokens} tokens"] = measure_choices(reader, longer, MEASURE_SEED)
        for name in ("syllogisms", "semantic", "process"):
            sizes = SETS[name]().sizes()
            made = list(make_worlds(name, "tiny", NUM_WORLDS // 2, sizes, seed=MEASURE_SEED))
            measured[f"set {name}"] = measure_questions(reader, made)
            measured[f"set {name}, generations"] = measure_inferences(reader, made, TEMPERATURE, MEASURE_SEED)
    report = {
        name: {key: {"value": share.value, "interval": share.interval, "n": share.count} for key, share in part.items()}
        for name, part in measured.items()
    }
    write_json(folder / MEASURES, {"fingerprint": weights_fingerprint(folder), "measures": report})
    plan = json.loads((folder / "pretraining.json").read_text())
    write_card(folder, plan, measured)
    _print(measured)
    return measured


def _print(measured: dict[str, dict[str, Share]]) -> None:
    table = Table(title="fresh worlds, 95% intervals")
    for column in ("worlds", "measure", "share"):
        table.add_column(column)
    for name, part in measured.items():
        for key, share in part.items():
            table.add_row(name, key, str(share))
    Console().print(table)
