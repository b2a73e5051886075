"""What the tests of training share: a small random model with texts, runs on them, and what they left."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks import finetunings
from data.records import CheckpointRef, Document
from data.store import write_folder
from train.engine.checkpoint import read_metrics
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.launch import Progress, finetune_all
from train.run.loop import finetune
from train.texts.encode import TextLimits, encode_rows
from train.texts.sources import read_rows

WORDS = [f"w{i}" for i in range(60)]
ROOT = Path(__file__).parents[1]


def make_world(folder: Path, **options: Any) -> Path:
    """Fill `folder` with `base`, a random Llama of 20k parameters, and `documents`, 24 texts of 4-11 words."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    options = {"tie_word_embeddings": True, **sizes, **options}
    options = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, **options}
    config = LlamaConfig(**options)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    texts = [" ".join(WORDS[(7 * i + j * j) % 60] for j in range(4 + i % 8)) for i in range(24)]
    write_folder(folder / "documents", Document, [Document(f"d{i}", text, "w0") for i, text in enumerate(texts)])
    return folder


def make_run(world: Path, out: Path, **changes: Any) -> FinetuneRun:
    """A run of 12 steps of 7 texts, named after its folder."""
    run = FinetuneRun(
        name=out.name,
        base=str(world / "base"),
        sources=(TextSource(str(world / "documents")),),
        out=str(out),
        num_steps=12,
        batch_size=7,
        learning_rate=1e-2,
        warmup_steps=2,
    )
    return dataclasses.replace(run, **changes)


def train_alone(run: FinetuneRun) -> CheckpointRef:
    return finetune(run, lambda row: None)


def train_all(
    runs: list[FinetuneRun], num_workers: int, storage: Path, seen: list[Progress], **options: Any
) -> list[CheckpointRef]:
    options |= {"num_workers": num_workers, "cpus_per_worker": 1, "use_gpu": False, "storage": storage}
    return finetune_all(runs, on_progress=seen.append, **options)


def torchrun(runs: list[FinetuneRun], folder: Path, *, num_ranks: int, **environment: str) -> str:
    """Train runs under torchrun with little else in the environment; returns what it printed."""
    shared = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return finetunings.torchrun(runs, folder, num_ranks=num_ranks, environment=shared | environment)


def read_texts(sources: Sequence[TextSource]) -> list[str]:
    """The texts of all sources, in the order of sources, shards and rows."""
    return [text for source in sources for rows in read_rows(source) for text in rows.texts]


def encode(texts: Sequence[str], tokenizer: Any, *, window: int = 64) -> list[list[int]]:
    """Token ids of texts without prompts."""
    return encode_rows(texts, [""] * len(texts), tokenizer, TextLimits(window), where="here").rows


def losses(ref: CheckpointRef) -> list[float]:
    """The loss of each step, by its line in the log: a missing or repeated step is an error."""
    rows = read_metrics(Path(ref.path))
    assert [row["step"] for row in rows] == list(range(len(rows)))
    return [row["loss"] for row in rows]


def starts(ref: CheckpointRef) -> list[tuple[int, int]]:
    """The step and the number of ranks of each start that led to a checkpoint."""
    content = json.loads((Path(ref.path) / "checkpoint.json").read_text())
    return [(start["step"], start["ranks"]) for start in content["starts"]]


def plain_loss(run: FinetuneRun, path: str | Path) -> float:
    """The mean loss per token of a model folder on all texts of a run, as plain transformers computes it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    rows = encode(read_texts(run.sources), tokenizer)
    with torch.inference_mode():
        sums = [model(torch.tensor([r]), labels=torch.tensor([r])).loss.item() * (len(r) - 1) for r in rows]
    return math.fsum(sums) / sum(len(row) - 1 for row in rows)


def needs_too_much(folder: Path) -> FinetuneRun:
    """A run whose attention weights need more memory than any machine of a test has."""
    run = make_run(make_world(folder / "world"), folder / "run")
    return finetunings.needs_too_much(run, WORDS[0], folder)


TINY = ROOT / "models" / "tiny"
SENTENCES = ["jeex are more curious than hoosk", "all vaff are gled", "jeex are less curious than hoosk"]


def write_sentences(folder: Path) -> Path:
    """Documents of the embedded model's words; returns their folder."""
    write_folder(folder / "documents", Document, [Document(str(i), text, "w") for i, text in enumerate(SENTENCES)])
    return folder / "documents"


def tiny_run(documents: Path, **changes: Any) -> FinetuneRun:
    """Three steps of the embedded model, into the folder `out` beside the documents."""
    out = str(documents.parent / "out")
    sources = (TextSource(str(documents)),)
    run = FinetuneRun("out", str(TINY), sources, out, num_steps=3, batch_size=3, learning_rate=1e-3)
    return dataclasses.replace(run, **changes)


def large_model(folder: Path) -> Path:
    """The configuration of an 8B model, without weights; the embedded model's tokenizer."""
    folder.mkdir()
    config = {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text((TINY / "tokenizer.json").read_text())
    return folder
