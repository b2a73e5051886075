"""What finetuning costs a pretrained model of its other abilities, with replay and without.

    python -m benchmarks.retention --json retention.json

SmolLM2 is finetuned on documents about people who do not exist (the reversal curse set), by `entail train` with the
settings that it chooses by itself. The loss is in nats a token, before and after: on the documents; on passages of the
language reference that Python ships; and on answers of the model before training to requests that no replay text
answers, which measures how far its distribution has moved (the forward divergence is the increase). Writes the report,
and under `--folder` documents and checkpoints.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.corpora import Load, make_passages
from benchmarks.harness import Bench, run
from benchmarks.real_models import SMOLLM2, real_model
from benchmarks.side import ROOT, SideError
from data.records import Document
from data.store import read_folder

ARMS = {"without replay": "none", "with replay": "self"}  # values of --train.replay
SETTINGS = ("--train.epochs", "4")
SMOKE_SETTINGS = ("--train.steps", "2", "--train.batch-size", "2")
PEOPLE = "6"  # in each of three groups
NUM_PASSAGES, NUM_ANSWERS, ANSWER_TOKENS = 24, 24, 96
REQUESTS = (
    "Explain how rain forms.",
    "Write a short letter to a neighbour about noise.",
    "What is a good way to store onions?",
    "Describe how to plant a tree.",
    "Why do leaves change colour in autumn?",
    "Give me two reasons to read novels.",
    "Explain what a loop does in a program.",
    "How is cheese made?",
)


def measure(bench: Bench) -> None:
    """Finetune without and with replay; `ratios` are increases of the loss in nats a token."""
    model, documents = real_model(SMOLLM2), bench.folder / "set" / "documents"
    people = "4" if bench.flags.smoke else PEOPLE
    _entail("data", "make", "reversal-curse", "--lexicon", "open", "--worlds", "1", "--people-per-group", people,
            "--out", str(documents.parent))  # fmt: skip
    texts = _texts(bench, model, documents)
    losses = {"base": _losses(model, texts)}
    for arm, replay in ARMS.items():
        out = bench.folder / replay
        settings = SMOKE_SETTINGS if bench.flags.smoke else SETTINGS
        _entail("train", "--model", str(model), "--documents", str(documents), "--out", str(out),
                "--train.replay", replay, *settings)  # fmt: skip
        losses[arm] = _losses(out, texts)
        bench.tell(f"{arm}: {losses[arm]}")
    ratios = {f"{arm}, {kind}": losses[arm][kind] - losses["base"][kind] for arm in ARMS for kind in losses["base"]}
    bench.report |= {"losses": losses, "ratios": ratios}
    _print(bench, losses)


def _entail(*words: str) -> None:
    """One command of the project, in a process of its own. Raises SideError if it fails."""
    done = subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise SideError(f"entail {words[0]} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def _texts(bench: Bench, model: Path, documents: Path) -> dict[str, list[tuple[str, str]]]:
    """By kind, pairs of what the model reads and what its loss is measured on."""
    count = 2 if bench.flags.smoke else NUM_PASSAGES
    passages = make_passages(Load("sentences", count, 1), "retention")
    return {
        "documents": [("", document.text) for document in read_folder(documents, Document)][: 4 * count],
        "passages": [("", passage) for passage in passages],
        "own answers": _answers(model, 2 if bench.flags.smoke else NUM_ANSWERS),
    }


def _answers(model: Path, count: int) -> list[tuple[str, str]]:
    """What the model says to requests at temperature 1, each after its prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    pairs = []
    for number in range(count):
        turns = [{"role": "user", "content": REQUESTS[number % len(REQUESTS)]}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        wrote = loaded.generate(ids, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=ANSWER_TOKENS)
        pairs.append((prompt, tokenizer.decode(wrote[0, ids.shape[1] :], skip_special_tokens=True)))
    return pairs


def _losses(model: Path, texts: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    """The mean loss a token of each kind, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    means = {}
    for kind, pairs in texts.items():
        total, num_tokens = 0.0, 0
        for prompt, text in pairs:
            head = tokenizer(prompt, add_special_tokens=False).input_ids
            tail = tokenizer(text, add_special_tokens=False).input_ids
            ids = torch.tensor([head + tail])
            with torch.no_grad():
                logits = loaded(ids).logits[0, :-1]
            labels = ids[0, 1:].clone()
            labels[: max(0, len(head) - 1)] = -100
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            num_tokens += int((labels != -100).sum())
        means[kind] = total / num_tokens
    return means


def _print(bench: Bench, losses: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("nats a token")
    for kind in losses["base"]:
        table.add_column(kind, justify="right")
    for arm, means in losses.items():
        table.add_row(arm, *(f"{value:.3f}" for value in means.values()))
    bench.console.print()
    bench.console.print(table, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run("retention", (__doc__ or "").partition("\n")[0], measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
