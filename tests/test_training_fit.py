"""Whether runs fit into memory, the chosen stage, the printed plan, and defaults by the model's size."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training_runs import SENTENCES, TINY, large_model, tiny_run, write_sentences

from data.errors import InputError
from data.records import Document
from data.store import write_folder
from train.plan.defaults import default_training, parameters_of
from train.plan.fit import Machine, fit_runs, print_plan
from train.plan.largest_part import LONGEST_READ, OTHERS_READ, Part, largest_part, longest_and_some
from train.plan.shapes import read_shape
from train.plan.sizing import GIB, Limits
from train.run.finetune_run import FinetuneRun, TextSource


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_sentences(tmp_path)


def fit(runs: list[FinetuneRun], limit: int | None, *, auto: bool, **options: Any) -> tuple[list[FinetuneRun], str]:
    lines: list[str] = []
    machine = Machine(ranks=2, on_gpu=False, limits=None if limit is None else Limits(limit))
    return fit_runs(runs, machine, auto=auto, say=lines.append, **{"check": True, **options}), "\n".join(lines)


def test_the_largest_part_is_counted_in_tokens_and_follows_the_layout(documents: Path) -> None:
    shape, longest = read_shape(TINY), len(SENTENCES[0].split()) + 1  # and its first token

    def part(ranks: int = 1, **changes: Any) -> Part:
        return largest_part(tiny_run(documents, **changes), ranks, shape)

    assert part(layout="padded") == Part(3, longest, packed=False)
    assert part(2, layout="padded") == part(layout="padded", accumulation=2) == Part(2, longest, packed=False)
    assert part(layout="packed") == Part(3, longest, packed=True)  # the tokens of the three texts fill that many
    assert part(layout="packed", accumulation=2) == Part(2, longest, packed=True)
    assert part(layout="padded", batch_size=1, batch_tokens=2 * longest) == Part(2, longest, packed=False)


def test_the_smallest_stage_is_chosen(documents: Path, tmp_path: Path) -> None:
    small, large = tiny_run(documents), tiny_run(documents, base=str(large_model(tmp_path / "model")))
    runs, said = fit([small], 4 * GIB, auto=True)
    assert [run.stage for run in runs] == [0] and "stage     0" in said
    runs, _ = fit([large], 110 * GIB, auto=True)
    assert [run.stage for run in runs] == [3]
    runs, said = fit([small], 4 * GIB, auto=False)
    assert runs == [small] and said == ""


@pytest.mark.parametrize("auto", [False, True])
def test_without_the_check_the_run_starts_whatever_it_needs(documents: Path, tmp_path: Path, auto: bool) -> None:
    large = tiny_run(documents, base=str(large_model(tmp_path / "model")))
    ((found,), _) = fit([large], 8 * GIB, auto=auto, check=False)
    assert found.stage == (3 if auto else large.stage)


@pytest.mark.parametrize("auto", [False, True])
def test_what_does_not_fit_is_refused(documents: Path, tmp_path: Path, auto: bool) -> None:
    large = tiny_run(documents, base=str(large_model(tmp_path / "model")))
    with pytest.raises(InputError, match=r"needs \d+ GiB a rank \(.*8.00 GiB") as refusal:
        fit([large], 8 * GIB, auto=auto)
    assert refusal.value.where == "run out"


def test_what_is_unknown_is_reported_and_not_checked(documents: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bloom"}')
    strange = tiny_run(documents, base=str(tmp_path / "model"))
    runs, said = fit([strange], 1, auto=False)
    assert runs == [strange] and "not checked" in said and "bloom" in said
    runs, said = fit([tiny_run(documents)], None, auto=False)
    assert len(runs) == 1 and "not checked" in said


def test_texts_that_are_not_written_yet_are_left_out(documents: Path) -> None:
    """Before the augmentation, memory is checked on the documents alone."""
    run = tiny_run(documents)
    later = dataclasses.replace(run, sources=(*run.sources, TextSource(str(documents.parent / "augmentations"))))
    with pytest.raises(InputError, match="no finished Arrow folder"):
        fit([later], 4 * GIB, auto=True)
    assert fit([later], 4 * GIB, auto=True, skip_missing=True)[0][0].stage == 0


def test_sentences_count_as_texts(tmp_path: Path) -> None:
    text = " ".join(f"{text}." for text in SENTENCES)
    write_folder(tmp_path / "documents", Document, [Document("d", text, "w")])
    whole = tiny_run(tmp_path / "documents", layout="padded")
    tokens = {}
    for split in ("none", "independent", "cumulative"):
        (source,) = whole.sources
        run = dataclasses.replace(whole, sources=(dataclasses.replace(source, split=split),))
        tokens[split] = largest_part(run, 1, read_shape(TINY)).row_tokens
    assert tokens["independent"] < tokens["none"] == tokens["cumulative"]


def test_the_longest_texts_and_some_others_are_read() -> None:
    texts = [str(10**9 + number) for number in range(50_000)]
    texts[7], texts[49_000] = "x" * 50, "y" * 40
    sample = longest_and_some(iter(texts))
    assert {"x" * 50, "y" * 40} <= set(sample[:LONGEST_READ])
    assert OTHERS_READ / 2 <= len(sample) - LONGEST_READ <= OTHERS_READ
    assert len(set(sample)) == len(sample)
    assert sorted(longest_and_some(iter(texts[:30]))) == sorted(texts[:30])


def test_a_plan_is_printed_by_stage_and_a_stage_that_does_not_fit_is_refused(documents: Path, tmp_path: Path) -> None:
    run, text = tiny_run(documents, base=str(large_model(tmp_path / "model"))), io.StringIO()
    machine, console = Machine(8, on_gpu=True, limits=Limits(80 * GIB)), Console(file=text, width=200)
    print_plan(run, machine, console, stage="auto", row_tokens=4096)
    assert "8,030,261,248 parameters" in text.getvalue() and "stage 2 is the smallest" in text.getvalue()
    with pytest.raises(InputError, match="stage 0 on 8 ranks"):
        print_plan(run, dataclasses.replace(machine, limits=Limits(60 * GIB)), console, stage=0)


def test_defaults_depend_on_the_size(tmp_path: Path) -> None:
    tiny, small, large = (default_training(parameters) for parameters in (400_000, 135_000_000, 8_000_000_000))
    assert (tiny.learning_rate, tiny.batch_size, tiny.steps, tiny.epochs) == (3e-3, 32, 240, 0)
    assert (small.learning_rate, large.learning_rate) == (1e-4, 1e-5)
    assert (large.batch_size, large.steps, large.epochs, large.min_steps) == (16, 0, 3, 100)
    assert tiny.min_steps == 0
    rates = [default_training(10**digits).learning_rate for digits in range(6, 12)]
    assert rates == sorted(rates, reverse=True)


def test_parameters_are_counted_for_unknown_architectures_too(tmp_path: Path) -> None:
    known = parameters_of(TINY)
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    with pytest.raises(InputError, match="bloom"):
        parameters_of(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(TINY / "model.safetensors")
    assert parameters_of(tmp_path) == known
