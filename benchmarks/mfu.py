"""How much of a GPU's arithmetic our finetuning uses: a model of a billion random parameters, rows of 4,096 tokens.

Part of `benchmarks.training` (`--mfu`). The peak is that of a large matrix multiplication, measured on the same GPU.
"""

import statistics

from benchmarks.corpora import Load, make_model, words_of, write_texts
from benchmarks.harness import OURS, Bench, print_ratios
from benchmarks.roofline import BILLION, measure_peak
from benchmarks.settings import shared_environment
from benchmarks.side import Side
from data.errors import InputError
from data.seeds import stream
from train.plan.flops import flops_per_token
from train.plan.shapes import read_shape

ROW_TOKENS, ROWS, STEPS = 4096, 4, 20


def measure_mfu(bench: Bench) -> None:
    """Rounds of one finetuning on full rows. Raises InputError on a machine without a GPU."""
    if not bench.on_gpu:
        raise InputError(
            "this needs a GPU, and nvidia-smi names none",
            where="this machine",
            hint="run it on a machine with one; without --mfu this measures on a CPU",
        )
    environment = shared_environment(on_gpu=True)
    with Side("peak", "benchmarks.sides.peak", folder=bench.folder / "peak", environment=environment) as side:
        peak = measure_peak(bench, side)
    model = make_model(bench.folder / "model", **BILLION | {"max_position_embeddings": ROW_TOKENS})
    load, words = Load("documents", ROWS, STEPS), words_of(model)
    rng = stream(0, "benchmarks", "mfu")
    texts = [" ".join(rng.choices(words, k=ROW_TOKENS - 1)) for _ in range(load.num_texts)]  # and the end token
    write_texts(texts, bench.folder / "texts")
    job = {
        "base": str(model), "documents": str(bench.folder / "texts" / "documents"), "num_steps": STEPS,
        "batch_size": ROWS, "learning_rate": 1e-5, "stage": 1,
    }  # fmt: skip
    rates = []
    with Side(OURS, "benchmarks.sides.finetune", folder=bench.folder / OURS, environment=environment) as side:
        versions = side.call("open").value["versions"]
        for number in range(-1, bench.flags.rounds):
            found = side.call("train", name=str(number), out=str(bench.folder / f"out{number}"), **job).value
            rates.append(load.num_texts * (ROW_TOKENS - 1) / found["seconds"])
            bench.tell(f"round {number + 1}: {rates[-1]:.0f} tokens/s")
    arithmetic = flops_per_token(read_shape(model), ROW_TOKENS)
    median = statistics.median(rates[1:])
    ratios = {"mfu": median * arithmetic / peak["flops"], "tokens_per_second": median}
    print_ratios(bench, ratios, {})
    bench.report |= {"ratios": ratios, "rates": rates, "peak": peak, "versions": versions}
