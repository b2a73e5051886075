"""From Arrow folders to the batches of a run, without an engine: tokens, prompts, teachers, budgets, refusals."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import VOCABULARY, WINDOW, make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from training_runs import read_texts
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.errors import InputError
from data.records import Augmentation, Distribution, Document
from data.seeds import vocabulary_fingerprint
from data.store import seal, write_folder, write_shard
from train.run.finetune_run import FinetuneRun, TextSource
from train.run.keys import key_of, run_key
from train.run.launch import ranks_for
from train.run.training_plan import TrainingPlan, check_ranks, open_plan, write_texts
from train.texts import sources as sources_module
from train.texts.batches import IGNORED, Batch
from train.texts.encode import TextLimits, encode_rows, load_encoder
from train.texts.packing import Arithmetic
from train.texts.tokens import open_tokens, write_tokens

ARITHMETIC = Arithmetic(1e5, 1e2)
LIMITS = TextLimits(WINDOW)


@dataclass(frozen=True)
class Pair:
    """A text that continues a prompt."""

    prompt: str
    completion: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `base`, 30 `short` texts of 4 words in two shards, and 10 `long` ones of 19."""
    folder = tmp_path_factory.mktemp("plan")
    make_model(folder / "base", 0, tied=True, num_layers=1)
    for name, count, size in (("short", 30, 4), ("long", 10, 19)):
        rows = [
            Document(f"{name}{i}", " ".join(f"w{(i * 7 + j) % 120}" for j in range(size)), "w") for i in range(count)
        ]
        for shard in range(2):
            write_shard(folder / name / f"part-{shard:05d}.arrow", Document, rows[shard::2])
        seal(folder / name, Document)
    return folder


def make_run(world: Path, out: Path, **changes: Any) -> FinetuneRun:
    sources = (TextSource(str(world / "short")), TextSource(str(world / "long")))
    run = FinetuneRun("r", str(world / "base"), sources, str(out), num_steps=6, batch_size=8, learning_rate=1e-3)
    return dataclasses.replace(run, **changes)


def plan_of(run: FinetuneRun) -> TrainingPlan:
    write_texts(run)
    return open_plan(run, None, ARITHMETIC, world_size=1)


def texts_of(batch: Batch) -> list[list[int]]:
    """The labels of each row of a padded batch."""
    return [[label for label in row if label != IGNORED] for row in batch.labels.tolist()]


def learned_in(batch: Batch) -> list[int]:
    """All labels of a batch, sorted."""
    return sorted(label for text in texts_of(batch) for label in text)


def test_tokens_rest_in_flat_files_that_are_mapped_and_written_once(world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources_module, "ROWS_AT_ONCE", 4)
    run, encoder = make_run(world, tmp_path), load_encoder(str(world / "base"))
    write_tokens(run.sources, tmp_path, encoder, LIMITS, where="here")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in files} == {"ids", "offsets", "first_labels", "texts", "manifest.json"}
    write_tokens(run.sources[::-1], tmp_path, encoder, LIMITS, where="here")
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    rows = open_tokens(run.sources, tmp_path, encoder, LIMITS)
    assert isinstance(rows._parts[0].ids, np.memmap)
    texts = [text for source in run.sources for rows in sources_module.read_rows(source) for text in rows.texts]
    assert [row.tolist() for row in rows] == [[*row, 1] for row in encoder.tokenizer(texts)["input_ids"]]
    assert rows.lengths.num_inputs.tolist() == rows.lengths.num_labels.tolist() == [4] * 30 + [19] * 10
    assert rows.lengths.sources.tolist() == [0] * 30 + [1] * 10


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 and Llama 3 have it, that merges over spaces and line ends."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    core.train_from_iterator(["who is the king of france ? the king is louis .\n", "a naïve café"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


@pytest.mark.parametrize(
    ("prompt", "text", "learned"),
    [
        ("who is the king ?", " louis .", " louis .<eos>"),
        ("who is the king ? ", "louis .", " louis .<eos>"),  # the token over the seam counts to the text
        ("who is the ki", "ng ?", " king ?<eos>"),
        ("", "the king", "he king<eos>"),  # a first token has nothing before it
        ("a naï", "ve café", " naïve café<eos>"),
    ],
)
def test_the_prompt_is_read_and_not_learned(prompt: str, text: str, learned: str) -> None:
    tokenizer = byte_tokenizer()
    found = encode_rows([text, "x y"], [prompt, "x"], tokenizer, TextLimits(99), where="here")
    row, first = found.rows[0], found.firsts[0]
    assert tokenizer.decode(row) == f"{prompt}{text}<eos>"
    if prompt:
        assert tokenizer.decode(row[first:]) == learned
    else:
        assert first == 1


def test_prompts_of_a_column_carry_no_label_in_any_layout(world: Path, tmp_path: Path) -> None:
    rows = [Pair(f"w{i} w{i + 1} ", f"w{i + 2} w{i + 3} w{i + 4}") for i in range(8)]
    write_folder(tmp_path / "pairs", Pair, rows)
    source = TextSource(str(tmp_path / "pairs"), text_column="completion", prompt_column="prompt")
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    wanted = sorted([*(ids[word] for word in row.completion.split()), 1] for row in rows)
    padded, packed = (
        plan_of(make_run(world, tmp_path / layout, sources=(source,), num_steps=1, layout=layout))
        for layout in ("padded", "packed")
    )
    (batch,) = padded.batches(0, 1)
    assert sorted(texts_of(batch)) == wanted
    assert batch.global_labels == batch.tokens == padded.schedule.num_tokens == 8 * 4
    (batch,) = packed.batches(0, 1)
    assert learned_in(batch) == sorted(label for text in wanted for label in text)
    assert batch.position_ids is not None and len(batch.labels) < 8
    tokenizer = load_encoder(str(world / "base")).tokenizer
    found = encode_rows(["", "w3"], ["w1 w2", "w1 "], tokenizer, LIMITS, where="here")
    assert found.empty == 1 and found.texts == [1]


def test_control_tokens_in_a_text_are_characters_of_it(tmp_path: Path) -> None:
    """A document about them does not teach the model to end in the middle of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({text: number for number, text in enumerate(["<|none|>", "<|end|>", *alphabet])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<|none|>", eos_token="<|end|>")
    texts = ["A text ends with <|end|> here.", "It may be <|none|>.", "Rain fell."]
    rows = encode_rows(texts, [""] * 3, tokenizer, LIMITS, where="here").rows
    assert [tokenizer.decode(row[:-1]) for row in rows] == texts
    assert all(row[-1] == 1 and not {0, 1} & {*row[:-1]} for row in rows)


def test_control_tokens_that_are_words_of_the_vocabulary_are_refused(world: Path) -> None:
    tokenizer = load_encoder(str(world / "base")).tokenizer
    with pytest.raises(InputError, match="<eos>"):
        encode_rows(["w1 <eos> w2", "w1 w2"], [""] * 2, tokenizer, LIMITS, where="here")


def long_texts(folder: Path) -> TextSource:
    """Texts of 4, 31 (too long for a window of 10), 0 and 9 tokens with their ends."""
    lengths = (3, 30, 0, 8)
    texts = [" ".join(f"w{i}" for i in range(length)) for length in lengths]
    write_folder(folder, Document, [Document(f"d{i}", text, "w") for i, text in enumerate(texts)])
    return TextSource(str(folder))


def test_long_texts_are_cut_without_losing_a_token_or_left_out_and_counted(world: Path, tmp_path: Path) -> None:
    source = long_texts(tmp_path / "texts")
    changes = {"sources": (source,), "num_steps": 0, "num_epochs": 1.0, "max_text_tokens": 10}
    cut = plan_of(make_run(world, tmp_path / "cut", **changes))
    assert cut.left_out == {"cut": 1, "skipped": 0, "empty": 1}
    assert [len(row) for row in cut.rows] == [4, 7, 8, 8, 8, 9]
    whole = load_encoder(str(world / "base")).tokenizer(" ".join(f"w{i}" for i in range(30)))["input_ids"]
    assert np.concatenate([cut.rows[index] for index in range(1, 5)]).tolist() == [*whole, 1]
    assert cut.name_texts([0, 1, 4, 5]) == f"d0, d1, d1, d3 in {source.folder}"
    assert cut.summary()["texts"] == {"cut": 1, "skipped": 0, "empty": 1}
    skipped = plan_of(make_run(world, tmp_path / "skip", **changes, long_texts="skip"))
    assert skipped.left_out == {"cut": 0, "skipped": 1, "empty": 1}
    assert [len(row) for row in skipped.rows] == [4, 9]
    assert skipped.name_texts([0, 1]) == f"d0, d3 in {source.folder}"
    with pytest.raises(InputError, match="all 2 training texts are longer than 3 tokens") as refusal:
        long = TextSource(str(tmp_path / "long"))
        write_folder(tmp_path / "long", Document, [Document(f"d{i}", "w1 w2 w3 w4", "w") for i in range(2)])
        plan_of(
            make_run(
                world, tmp_path / "none", **changes | {"sources": (long,), "max_text_tokens": 3}, long_texts="skip"
            )
        )
    assert "long_texts" in refusal.value.hint


def test_a_long_text_with_a_prompt_loses_its_end_and_one_with_a_long_prompt_is_left_out(world: Path) -> None:
    tokenizer = load_encoder(str(world / "base")).tokenizer
    texts, prompts = ["w1 w2 w3 w4", "w1 w2"], ["w5 ", "w5 w6 w7 w8 "]
    found = encode_rows(texts, prompts, tokenizer, TextLimits(4), where="here")
    assert [tokenizer.decode(row) for row in found.rows] == ["w5 w1 w2 w3"]
    assert (found.firsts, found.texts, found.cut, found.skipped) == ([1], [0], 1, 1)


def test_pieces_begin_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    core = Tokenizer(
        models.WordLevel({"<bos>": 0, "<eos>": 1, **{f"w{i}": 2 + i for i in range(20)}}, unk_token="<bos>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
    found = encode_rows([" ".join(f"w{i}" for i in range(10))], [""], tokenizer, TextLimits(6), where="here")
    assert found.rows == [[0, 2, 3, 4], [0, 5, 6, 7, 8], [0, 9, 10, 11, 1]]


def test_tokens_and_schedules_are_computed_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(world, tmp_path / "one", tokens=str(tmp_path / "tokens"))
    before = plan_of(run)
    monkeypatch.setattr("train.texts.tokens.encode_rows", None)
    monkeypatch.setattr("train.run.training_plan.make_schedule", None)
    after = plan_of(dataclasses.replace(run, name="two", out=str(tmp_path / "two")))
    assert isinstance(after.schedule.rows, np.memmap)
    assert after.schedule.rows.tolist() == before.schedule.rows.tolist()
    assert after.schedule.tokens.tolist() == before.schedule.tokens.tolist()


def test_weights_decide_the_shares_and_matching_the_length(world: Path, tmp_path: Path) -> None:
    short, long = (TextSource(str(world / name), weight=weight) for name, weight in (("short", 1), ("long", 3)))
    plan = plan_of(make_run(world, tmp_path / "mixed", sources=(short, long), num_steps=0, num_tokens=8000))
    summary = plan.summary()
    assert summary["source_shares"] == pytest.approx([0.25, 0.75], abs=0.01)
    assert summary["num_tokens"] == plan.run.num_tokens + plan.schedule.num_tokens == pytest.approx(8000, abs=10)
    documents, arm = (dataclasses.replace(short, weight=None),), (short, long)
    lengths = {}
    for match in ("steps", "tokens"):
        same = {"match": match, "matched_to": documents, "num_steps": 0, "num_epochs": 4}
        runs = [make_run(world, tmp_path / f"{match}{len(s)}", sources=s, **same) for s in (documents, arm)]
        lengths[match] = [(c.run.num_steps, c.schedule.num_tokens) for c in map(plan_of, runs)]
    assert lengths["steps"][0] == lengths["tokens"][0] == (15, 4 * 30 * 4)
    assert lengths["steps"][1][0] == 15 and lengths["steps"][1][1] > 500
    assert lengths["tokens"][1][0] < 15 and lengths["tokens"][1][1] == pytest.approx(480, abs=10)


def test_epochs_of_a_few_texts_are_as_many_as_the_least_steps_need(world: Path, tmp_path: Path) -> None:
    short = (TextSource(str(world / "short")),)
    budget = {"sources": short, "num_steps": 0, "num_epochs": 4}
    steps = {
        least: plan_of(make_run(world, tmp_path / f"{least}", **budget, min_steps=least)).run.num_steps
        for least in (0, 10, 40)
    }
    assert steps == {0: 15, 10: 15, 40: 40}
    arm = plan_of(make_run(world, tmp_path / "arm", **budget, min_steps=40, match="steps", matched_to=short))
    assert (arm.run.num_steps, arm.run.min_steps) == (40, 0)
    with pytest.raises(InputError, match="epochs"):
        make_run(world, tmp_path / "steps", num_steps=4, min_steps=2)


def test_a_plan_resumes_from_any_step_and_on_any_number_of_ranks(world: Path, tmp_path: Path) -> None:
    plan = plan_of(make_run(world, tmp_path / "run"))
    whole = list(plan.batches(0, 1))
    for later, batch in zip(plan.batches(0, 1, start=4), whole[4:], strict=True):
        assert np.array_equal(later.input_ids, batch.input_ids) and later.tokens == batch.tokens
    for batch, *parts in zip(whole, plan.batches(0, 2), plan.batches(1, 2), strict=True):
        taught = sorted(label for part in parts for label in learned_in(part))
        assert taught == learned_in(batch)
        assert all(np.array_equal(part.indices, batch.indices) for part in parts)


def distribution(tokenizer: Any, ids: tuple[int, ...], k: int, **changes: Any) -> Distribution:
    top_ids = tuple(place * 10 + rank for place in range(len(ids) - 1) for rank in range(k))
    row = Distribution("t", "", ids, top_ids, tuple(-0.5 - i for i in range(len(top_ids))), k, "")
    return dataclasses.replace(row, vocabulary=vocabulary_fingerprint(tokenizer.get_vocab()), **changes)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_teachers_distributions_lie_where_their_labels_lie(world: Path, tmp_path: Path, layout: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    taught = [distribution(tokenizer, tuple(range(50 + i, 50 + i + n)), 3) for i, n in ((0, 4), (1, 6), (2, 2))]
    write_folder(tmp_path / "taught", Distribution, taught)
    sources = (TextSource(str(tmp_path / "taught")), TextSource(str(world / "short")))
    options = {"sources": sources, "objective": "distillation", "layout": layout, "num_steps": 1, "batch_size": 33}
    (batch,) = plan_of(make_run(world, tmp_path / "run", **options)).batches(0, 1)
    assert batch.teacher is not None
    found = set()
    for row, column in np.argwhere(batch.teacher.mask):
        top = zip(batch.teacher.ids[row, column].tolist(), batch.teacher.log_probs[row, column].tolist(), strict=True)
        found.add((int(batch.input_ids[row, column]), int(batch.labels[row, column]), *top))
    wanted = {
        (
            row.token_ids[i],
            row.token_ids[i + 1],
            *zip(row.top_ids[3 * i : 3 * i + 3], row.top_log_probs[3 * i : 3 * i + 3], strict=True),
        )
        for row in taught
        for i in range(len(row.token_ids) - 1)
    }
    assert found == wanted
    assert batch.teacher.mask.sum() == sum(len(row.token_ids) - 1 for row in taught)
    plain = plan_of(make_run(world, tmp_path / "plain", **{**options, "objective": "text"}))
    assert next(plain.batches(0, 1)).teacher is None  # the same tokens without the teacher: a control


def test_distributions_that_do_not_fit_are_refused(world: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    good = distribution(tokenizer, (5, 6, 7), 2)
    for name, rows, message in (
        ("vocabulary", [dataclasses.replace(good, vocabulary="another")], "another vocabulary"),
        ("places", [dataclasses.replace(good, top_ids=good.top_ids[1:])], "not 2 tokens for each of 2 positions"),
        ("mixed", [good, distribution(tokenizer, (5, 6, 7), 3)], "not 2 tokens for each of 2 positions"),
        ("range", [dataclasses.replace(good, token_ids=(5, 6, 999))], "999"),
    ):
        write_folder(tmp_path / name, Distribution, rows)
        with pytest.raises(InputError, match=message):
            write_texts(make_run(world, tmp_path / "out", sources=(TextSource(str(tmp_path / name)),)))
    with pytest.raises(InputError, match="no source has a teacher"):
        write_texts(make_run(world, tmp_path / "out", objective="distillation"))


def test_the_key_takes_in_what_decides_the_result(world: Path, tmp_path: Path) -> None:
    run = make_run(world, tmp_path / "run")
    key = run_key(run, "weights", "tokenizer")
    elsewhere = dataclasses.replace(run, out=str(tmp_path / "moved"), tokens=str(tmp_path), base="other", name="new")
    assert run_key(elsewhere, "weights", "tokenizer") == key
    short, long = run.sources
    others = [
        dataclasses.replace(run, batch_tokens=40),
        dataclasses.replace(run, sources=(dataclasses.replace(short, weight=1), dataclasses.replace(long, weight=1))),
        dataclasses.replace(run, sources=(long, short)),
        dataclasses.replace(run, sources=(short,)),
        dataclasses.replace(run, match="steps", matched_to=(short,)),
        dataclasses.replace(run, match="steps", matched_to=(long,)),
    ]
    keys = {run_key(other, "weights", "tokenizer") for other in others}
    keys |= {run_key(run, "other", "tokenizer"), run_key(run, "weights", "other"), key}
    assert len(keys) == len(others) + 3


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_tokens": 5}, "train.steps"),
        ({"num_steps": 0}, "train.steps"),
        ({"warmup_steps": 7}, "train.warmup_steps"),
        ({"match": "steps"}, "train.match"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(world: Path, tmp_path: Path, changes: dict, key: str) -> None:
    with pytest.raises(InputError) as refusal:
        make_run(world, tmp_path, **changes)
    assert refusal.value.where.startswith(key)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.0, 0.0), "sum to zero"),
        ((1.0, -1.0), "negative or not a number"),
        ((1.0, float("nan")), "negative or not a number"),
        ((1.0, None), "1 of 2 sources have no weight"),
    ],
)
def test_invalid_weights_are_refused(world: Path, tmp_path: Path, weights: tuple, message: str) -> None:
    sources = tuple(
        TextSource(str(world / name), weight=weight) for name, weight in zip(("short", "long"), weights, strict=True)
    )
    with pytest.raises(InputError, match=message):
        make_run(world, tmp_path, sources=sources)


def test_what_cannot_be_trained_is_refused_before_anything_is_trained(world: Path, tmp_path: Path) -> None:
    nobody = TextSource(str(world / "long"), corpus="nobody", weight=1.0)
    short = TextSource(str(world / "short"), weight=1.0)
    for changes, message in (
        ({"base": str(tmp_path / "none")}, "no model here"),
        ({"sources": ()}, "no texts to train on"),
        ({"sources": (short, nobody)}, "a source of the mix has a weight but no texts"),
        ({"sources": (TextSource(str(world / "short"), text_column="words"),)}, "no column words"),
    ):
        with pytest.raises(InputError, match=message):
            write_texts(make_run(world, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
    nothing_kept = TextSource(str(tmp_path / "made"), verdict_kept_only=True, weight=1.0)
    write_folder(tmp_path / "made", Augmentation, [])
    plan = plan_of(make_run(world, tmp_path / "out", sources=(short, nothing_kept)))
    assert plan.summary()["source_shares"] == [1.0, 0.0]  # that may happen in any corpus, and is reported


def test_a_batch_has_work_for_every_rank_and_micro_batch(world: Path, tmp_path: Path) -> None:
    plain, tokens, parts = (
        make_run(world, tmp_path, **changes) for changes in ({}, {"batch_tokens": 4}, {"accumulation": 3})
    )
    for run, ranks, size in ((plain, 9, "8 texts"), (tokens, 5, "4 tokens"), (parts, 3, "8 texts")):
        with pytest.raises(InputError, match=size) as refusal:
            check_ranks(run, ranks)
        assert refusal.value.where.startswith("--ranks")
    assert ranks_for([plain], 64) == 8 and ranks_for([plain, tokens], 64) == 4 and ranks_for([parts], 64) == 2
    assert ranks_for([plain], 3) == 3
    for run in (plain, tokens, parts):
        check_ranks(run, ranks_for([run], 64))


def sentences(folder: Path) -> TextSource:
    texts = ["w1 w2. w3 w4 w5.", "w6."]
    write_folder(folder, Document, [Document(f"d{i}", text, "w") for i, text in enumerate(texts)])
    return TextSource(str(folder))


@pytest.mark.parametrize(
    ("split", "wanted", "names"),
    [
        ("independent", ["w1 w2.", "w3 w4 w5.", "w6."], ["d0", "d0", "d1"]),
        ("cumulative", ["w1 w2.", "w1 w2. w3 w4 w5.", "w6."], ["d0", "d0", "d1"]),
    ],
)
def test_sentences_are_training_texts_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: Any, wanted: list[str], names: list[str]
) -> None:
    whole = sentences(tmp_path / "documents")
    source = dataclasses.replace(whole, split=split)
    monkeypatch.setattr(sources_module, "ROWS_AT_ONCE", 2)
    assert read_texts([source]) == wanted
    assert sources_module.name_texts(source, range(3)) == names
    assert sources_module.content_of(source) != sources_module.content_of(whole)


def test_texts_with_prompts_and_teachers_are_not_split(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        TextSource("folder", prompt_column="prompt", split="independent")
    assert refusal.value.where == "train.split_sentences"
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    write_folder(tmp_path / "taught", Distribution, [distribution(tokenizer, (5, 6, 7), 2)])
    with pytest.raises(InputError, match="split"):
        write_texts(
            make_run(world, tmp_path / "out", sources=(TextSource(str(tmp_path / "taught"), split="cumulative"),))
        )


def test_teachers_of_different_k_are_refused_before_the_start(world: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    for k in (1, 3):
        write_folder(tmp_path / f"k{k}", Distribution, [distribution(tokenizer, (5, 6, 7), k)])
    sources = tuple(TextSource(str(tmp_path / f"k{k}")) for k in (1, 3))
    with pytest.raises(InputError, match="1, 3") as refusal:
        write_texts(make_run(world, tmp_path / "out", sources=sources, objective="distillation"))
    assert refusal.value.where.startswith("--teacher")


def test_the_key_takes_in_the_configuration_of_the_base(world: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "base", 0, tied=True, num_layers=1)
    run = make_run(world, tmp_path / "out", base=str(tmp_path / "base"))
    key, config = key_of(run), tmp_path / "base" / "config.json"
    assert key == key_of(make_run(world, tmp_path / "out"))  # the same model in another folder
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"transformers_version": "9.9"}))
    assert key_of(run) == key
    config.write_text(json.dumps(content | {"rope_theta": 5e5}))
    assert key_of(run) != key


def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused(world: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "base", 0, tied=True, num_layers=1)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 123', '"vocab_size": 60'))
    with pytest.raises(InputError, match="vocabulary of 60"):
        write_texts(make_run(world, tmp_path / "out", base=str(tmp_path / "base")))
