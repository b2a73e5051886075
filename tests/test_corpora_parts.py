"""Near-duplicates, chunks and sentences of imported documents."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_corpora import load, rejected, texts_in, write_jsonl
from tokenizers import Tokenizer

from data.corpora.arrays import string_array
from data.corpora.duplicates import KeyTable
from data.corpora.parts import load_counter
from data.corpora.words import NUM_HASHES, signatures
from data.errors import InputError
from data.records import Document
from data.sentences import count_words, split_sentences
from data.store import read_folder

TOKENIZER = Path(__file__).resolve().parent.parent / "models" / "tiny" / "tokenizer.json"


@cache
def shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = text.lower().split()
    return frozenset(tuple(words[start : start + 5]) for start in range(len(words)))


def likeness(one: str, other: str) -> float:
    shared = len(shingles(one) & shingles(other))
    return shared / (len(shingles(one)) + len(shingles(other)) - shared)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Documents and changed copies of them, from a word to a third of the words changed, in mixed order."""
    rng = random.Random(3)
    words = [f"w{number}" for number in range(5_000)]
    found = [rng.choices(words, k=rng.randint(60, 300)) for _ in range(120)]
    for share in (0.005, 0.01, 0.05, 0.3):
        found += [[rng.choice(words) if rng.random() < share else w for w in text] for text in found[:120:2]]
    rng.shuffle(found)
    return [" ".join(text) for text in found]


def test_signatures_estimate_likeness(corpus: list[str]) -> None:
    rows = signatures(string_array(corpus))
    assert rows.shape == (len(corpus), NUM_HASHES)
    rng = random.Random(0)
    pairs = [(rng.randrange(len(corpus)), rng.randrange(len(corpus))) for _ in range(300)]
    pairs += [
        (one, other) for one in range(40) for other in range(len(corpus)) if likeness(corpus[one], corpus[other]) > 0.2
    ]
    errors = [np.mean(rows[one] == rows[other]) - likeness(corpus[one], corpus[other]) for one, other in pairs]
    assert abs(np.mean(errors)) < 0.02 and np.sqrt(np.mean(np.square(errors))) < 0.05


def test_signatures_do_not_depend_on_neighbours_case_or_spaces(corpus: list[str]) -> None:
    long = " ".join(corpus)  # longer than what is hashed at a time
    mixed = [corpus[0].upper().replace(" ", "\n  "), "", long, "全部都是 glon", corpus[0], "全部都是 glon"]
    rows = signatures(string_array(mixed))
    assert (rows[0] == rows[4]).all() and (rows[3] == rows[5]).all()
    assert (rows[2] == signatures(string_array([long]))[0]).all()
    assert (rows[0] != rows[2]).any()


def test_near_duplicates_are_left_out_and_reported_with_their_original(tmp_path: Path, corpus: list[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", corpus)
    load(tmp_path / "a.jsonl", tmp_path / "out", similarity=0.8)
    kept = texts_in(tmp_path / "out")
    rows = map(json.loads, (tmp_path / "out" / "rejected" / "rows.jsonl").read_text().splitlines())
    removed = {row["line"]: int(row["detail"].rpartition(" ")[2]) for row in rows if row["reason"] == "near-duplicate"}
    assert len(kept) + len(rejected(tmp_path / "out")) == len(corpus)
    values = [likeness(corpus[line - 1], corpus[original - 1]) for line, original in removed.items()]
    assert min(values) > 0.65 and all(original < line for line, original in removed.items())
    # Nothing that is clearly alike is left.
    left = [likeness(one, other) for number, one in enumerate(kept) for other in kept[:number]]
    assert max(left) < 0.92 and sum(value > 0.85 for value in left) <= 2


def test_likeness_is_found_across_batches_too(
    tmp_path: Path, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "a.jsonl", corpus)
    load(tmp_path / "a.jsonl", tmp_path / "at-once", similarity=0.8)
    monkeypatch.setattr("data.corpora.lines.BLOCK_BYTES", 20_000)
    monkeypatch.setattr("data.corpora.ingest.BLOCK_BYTES", 20_000)
    load(tmp_path / "a.jsonl", tmp_path / "in-batches", similarity=0.8)
    one, two = (set(texts_in(tmp_path / name)) for name in ("at-once", "in-batches"))
    assert len(one ^ two) <= 4  # chains of copies may break at another link


def test_without_the_flag_near_duplicates_stay(tmp_path: Path, corpus: list[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", corpus)
    assert load(tmp_path / "a.jsonl", tmp_path / "out").num_documents == len(set(corpus))


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=12))
def test_a_key_table_is_a_mapping_that_keeps_the_first(batches: list[list[int]]) -> None:
    table, known = KeyTable(), {}
    for batch in batches:
        keys = np.array(batch, np.uint64)
        assert table.find(keys).tolist() == [known.get(key, -1) for key in batch]
        new = [key for key in batch if key not in known]
        numbers = np.arange(len(known), len(known) + len(new))
        table.insert(np.array(new, np.uint64), numbers)
        for key, number in zip(new, numbers.tolist(), strict=True):
            known.setdefault(key, number)
    assert table.find(np.arange(42, dtype=np.uint64)).tolist() == [known.get(key, -1) for key in range(42)]


def test_chunks_keep_order_budget_and_their_documents_name(tmp_path: Path) -> None:
    members = [" ".join(f"w{n} {number} end." for n in range(50)) for number in range(3)]
    write_jsonl(tmp_path / "a.jsonl", members)
    load(tmp_path / "a.jsonl", tmp_path / "out", chunk_tokens=20)
    documents = list(read_folder(tmp_path / "out" / "documents", Document))
    assert all(count_words(document.text) <= 20 and document.text.endswith("end.") for document in documents)
    for member in members:
        parts = [document for document in documents if document.text.split()[1] == member.split()[1]]
        assert " ".join(part.text for part in parts) == member
        names, numbers = zip(*(part.doc_id.split("/") for part in parts), strict=True)
        assert len(set(names)) == 1 and list(map(int, numbers)) == list(range(len(parts)))


MANUAL = """# Otters

Otters are heavy. They swim well and eat fish.

## Food

They eat fish, crabs and frogs. In winter they eat less of them.

```
eat(fish)  # in the river
eat(crab)  # by the sea
```

## Homes

### Dens

A den is dry. It lies above the water, under roots.
"""


def test_chunks_end_before_headings_and_carry_those_above(tmp_path: Path) -> None:
    (tmp_path / "otters.md").write_text(MANUAL)
    load(tmp_path / "otters.md", tmp_path / "out", chunk_tokens=18)
    found = {document.text: document.heading for document in read_folder(tmp_path / "out" / "documents", Document)}
    assert found == {
        "# Otters\n\nOtters are heavy. They swim well and eat fish.": "Otters",
        "## Food\n\nThey eat fish, crabs and frogs. In winter they eat less of them.": "Otters",
        "```\neat(fish)  # in the river\neat(crab)  # by the sea\n```": "Otters > Food",
        "## Homes\n\n### Dens\n\nA den is dry. It lies above the water, under roots.": "Otters",
    }


def test_long_headings_are_shortened_and_code_is_cut_at_line_ends(tmp_path: Path) -> None:
    code = "\n".join(f"line {number} of the code" for number in range(12))
    (tmp_path / "a.md").write_text(f"# {'long ' * 100}\n\n```\n{code}\n```\n\nThe end is near.")
    load(tmp_path / "a.md", tmp_path / "out", chunk_tokens=40)
    documents = list(read_folder(tmp_path / "out" / "documents", Document))
    assert all(count_words(document.text) <= 40 and len(document.heading) <= 200 for document in documents)
    assert [document.text for document in documents if document.text[:4] == "line"]
    assert all(document.text.endswith(("the code", "```", "near.", "long")) for document in documents)
    prose = [sentence for document in documents for sentence in split_sentences(document.text, document.outline)]
    assert prose == ["The end is near."]


def test_chunks_by_a_models_tokenizer(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["jeex are more curious than hoosk. " * 40])
    load(tmp_path / "a.jsonl", tmp_path / "out", chunk_tokens=16, tokenizer=str(TOKENIZER.parent))
    counter = Tokenizer.from_file(str(TOKENIZER))
    sizes = [len(counter.encode(text, add_special_tokens=False).ids) for text in texts_in(tmp_path / "out")]
    assert len(sizes) > 5 and 8 < max(sizes) <= 16


def test_saved_padding_and_truncation_do_not_distort_counts(tmp_path: Path) -> None:
    loaded = Tokenizer.from_file(str(TOKENIZER))
    loaded.enable_padding(length=500)
    loaded.enable_truncation(max_length=3)
    loaded.save(str(tmp_path / "tokenizer.json"))
    texts = ["jeex are more curious than hoosk.", "jeex"]
    plain, saved = load_counter(str(TOKENIZER)), load_counter(str(tmp_path))
    assert saved(texts) == plain(texts) and plain(texts)[0] > 3


def test_a_broken_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    for content in ("{", "{}"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_counter(str(tmp_path))


def test_sentences_alone_and_with_those_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One. Two! Three?")
    load(tmp_path / "a.txt", tmp_path / "alone", split="independent")
    load(tmp_path / "a.txt", tmp_path / "grown", split="cumulative")
    load(tmp_path / "a.txt", tmp_path / "both", split="cumulative", chunk_tokens=8)
    assert texts_in(tmp_path / "alone") == ["One.", "Two!", "Three?"]
    assert texts_in(tmp_path / "grown") == ["One.", "One. Two!", "One. Two! Three?"] == texts_in(tmp_path / "both")


def test_cumulated_sentences_do_not_grow_without_bound(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["Glon are femp. " * 2_000])
    load(tmp_path / "a.jsonl", tmp_path / "out", split="cumulative")
    sizes = [count_words(text) for text in texts_in(tmp_path / "out")]
    assert len(sizes) == 2_000 and max(sizes) <= 2_000 and sizes[:3] == [3, 6, 9]


def test_sentences_that_recur_stay(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["Yes. No.", "Yes. Yes."])
    load(tmp_path / "a.jsonl", tmp_path / "out", split="independent")
    assert texts_in(tmp_path / "out") == ["Yes.", "No.", "Yes.", "Yes."]
    assert len({document.doc_id for document in read_folder(tmp_path / "out" / "documents", Document)}) == 4


def test_a_missing_tokenizer_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    with pytest.raises(InputError, match="no tokenizer"):
        load(tmp_path / "a.jsonl", tmp_path / "out", chunk_tokens=9, tokenizer=str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        {"chunk_tokens": 3},
        {"chunk_tokens": -1},
        {"similarity": 1.5},
        {"split": "some"},
        {"max_bytes": 0},
        {"max_bytes": 1 << 31},
        {"id_column": "text"},
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, flags: dict[str, object]) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    with pytest.raises(InputError):
        load(tmp_path / "a.jsonl", tmp_path / "out", **flags)
