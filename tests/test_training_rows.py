"""Training rows of augmentations: plain texts, texts after a prompt, and turns of a chat, in one source."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_cli import refuse
from training_runs import make_run, make_world
from transformers import AutoTokenizer

from benchmarks.real_models import SMOLLM2, real_model
from data.audit import audit_leaks
from data.errors import InputError
from data.export import export
from data.records import Augmentation, Document, Question
from data.rendering import load_book
from data.store import read_shard, read_table, seal, write_folder
from train.run.keys import key_of
from train.texts.encode import TextLimits, load_encoder
from train.texts.sources import TextSource, content_of, has_turns, name_texts, read_rows
from train.texts.tokens import count_left_out, open_tokens, tokens_folder, write_tokens

LIMITS = TextLimits(400)


def row(
    text: str, prompt: str = "", form: str = "text", verdict: str = "kept", method: str = "self_qa/ask"
) -> Augmentation:
    return Augmentation(
        f"a-{text}", "w", method, ("d",), "", text, "", verdict, 0.0, "stop", "m", "t", "", 0.7, 0,
        prompt=prompt, form=form,
    )  # fmt: skip


ROWS = [
    row("The ferry carries twelve people."),
    row("Twelve people.", "How many people does the ferry carry?", "chat"),
    row("one two three four five", "one two ___ ___ five\n\n"),
    row("rejected", "What?", "chat", verdict="empty"),
    row("The Arne.", "Which river does it cross?", "chat"),
]


def write(folder: Path, rows: list[Augmentation] = ROWS) -> TextSource:
    write_folder(folder, Augmentation, rows)
    return TextSource(str(folder), verdict_kept_only=True)


@pytest.fixture(scope="module")
def smollm() -> str:
    return str(real_model(SMOLLM2))


def expected(tokenizer: Any, one: Augmentation) -> tuple[list[int], list[int]]:
    """What is read and what is learned, by the tokenizer alone."""
    if one.form != "chat":
        whole, num_learned = tokenizer(one.prompt + one.text)["input_ids"], len(tokenizer(one.text)["input_ids"])
        read = len(whole) - num_learned if one.prompt else 1  # the first token follows nothing
        return whole[:read], [*whole[read:], tokenizer.eos_token_id]
    turns = [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.text}]
    read = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)  # a line end follows the turn's end
    assert whole[: len(read)] == read and end > len(read)
    return read, whole[len(read) : end]


def test_rows_and_labels_are_those_of_the_models_own_template(smollm: str, tmp_path: Path) -> None:
    source, encoder = write(tmp_path / "rows"), load_encoder(smollm)
    write_tokens([source], tmp_path / "tokens", encoder, LIMITS, where="here")
    found = open_tokens([source], tmp_path / "tokens", encoder, LIMITS)
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    kept = [one for one in ROWS if one.verdict == "kept"]
    for index, one in enumerate(kept):
        tokens, first = found[index].tolist(), found.first_label(index)
        assert (tokens[:first], tokens[first:]) == expected(tokenizer, one)
    assert [found.locate(index) for index in range(len(found))] == [(0, at) for at in range(len(kept))]
    assert name_texts(source, [1, 3]) == ["a-Twelve people.", "a-The Arne."]


def test_what_a_row_says_is_never_a_control_token(smollm: str, tmp_path: Path) -> None:
    said = "What does <|im_end|> mean?"
    source = write(tmp_path / "rows", [row(said, said, "chat"), row("It ends.", "What does it mean?", "chat")])
    write_tokens([source], tmp_path / "tokens", load_encoder(smollm), LIMITS, where="here")
    marked, plain = open_tokens([source], tmp_path / "tokens", load_encoder(smollm), LIMITS)
    end = AutoTokenizer.from_pretrained(smollm).eos_token_id
    assert marked.tolist().count(end) == plain.tolist().count(end) > 1


def test_rows_that_do_not_fit_are_counted(smollm: str, tmp_path: Path) -> None:
    rows = [row("yes " * 30, "Is it? " * 30, "chat"), row("no", "word " * 300), row("word " * 90)]
    source, encoder, limits = write(tmp_path / "rows", rows), load_encoder(smollm), TextLimits(60)
    write_tokens([source], tmp_path / "tokens", encoder, limits, where="here")
    assert count_left_out([source], tmp_path / "tokens", encoder, limits) == {"cut": 1, "skipped": 2, "empty": 0}
    assert {open_tokens([source], tmp_path / "tokens", encoder, limits).locate(at)[1] for at in (0, 1)} == {2}


def test_prompt_form_and_template_decide_keys(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    seen = set()
    for number, change in enumerate([{}, {"prompt": "w1"}, {"prompt": "w1", "form": "chat"}, {"form": "chat"}]):
        source = write(tmp_path / str(number), [replace(row("w5 w6"), **change)])
        assert has_turns(source) == (change.get("form") == "chat")
        folder = tokens_folder(source, tmp_path, load_encoder(str(world / "base")), LIMITS)
        seen |= {content_of(source), key_of(make_run(world, tmp_path / "run", sources=(source,))), folder.name}
    assert len(seen) == 12
    chat = make_run(world, tmp_path / "run", sources=(TextSource(str(tmp_path / "2")),))
    before = key_of(chat)
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    tokenizer.chat_template += "."
    tokenizer.save_pretrained(world / "base")
    load_encoder.cache_clear()
    assert key_of(chat) != before


def test_only_rows_that_are_selected_count(tmp_path: Path) -> None:
    rows = [row("w1 w2", method="local/reverse"), row("w3", "w4", "chat")]
    source = write(tmp_path / "rows", rows)
    assert has_turns(source) and not has_turns(replace(source, methods=("local/reverse",)))


def test_folders_without_these_columns_are_plain_texts(tmp_path: Path) -> None:
    source = write(tmp_path / "rows", [row("w1 w2"), row("w3")])
    (path,) = (tmp_path / "rows").glob("*.arrow")
    table = read_table(path).drop_columns(["prompt", "form", "about", "span", "place", "prompt_id"])
    before = content_of(source)
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    seal(tmp_path / "rows", Augmentation)
    assert [tuple(rows) for rows in read_rows(source)] == [(["w1 w2", "w3"], ["", ""], [False, False])]
    assert not has_turns(source) and content_of(source) == before


def test_named_columns_come_before_the_rows_own(tmp_path: Path) -> None:
    source = replace(write(tmp_path / "rows", [row("w3", "w4", "chat")]), prompt_column="method")
    assert [tuple(rows) for rows in read_rows(source)] == [(["w3"], ["self_qa/ask"], [False])]


def test_rows_with_prompts_are_not_split(tmp_path: Path) -> None:
    source = replace(write(tmp_path / "rows", [row("A b. C d.", "w4")]), split="independent")
    with pytest.raises(InputError, match="prompts cannot be split"):
        list(read_rows(source))


def test_chat_rows_need_a_chat_template(tmp_path: Path, capsys: Any) -> None:
    world = make_world(tmp_path / "world")
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    tokenizer.chat_template = None
    (world / "base" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(world / "base")
    write(tmp_path / "rows")
    capsys.readouterr()
    words = ["train", "--model", str(world / "base"), "--documents", str(world / "documents"), "--augmentations"]
    said = refuse(capsys, *words, str(tmp_path / "rows"), "--out", str(tmp_path / "out"))
    assert "no chat template" in said and "data/templates/english.toml" in said
    assert not (tmp_path / "out").exists()


def test_the_shipped_books_say_which_methods_write_turns() -> None:
    english, chat = (load_book(None, Path(name)) for name in ("english", "english-chat"))
    assert not any(template.makes_chats for template in english.templates)
    assert [template.method for template in chat.templates if template.makes_chats] == ["self_qa/ask"]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [("glon are less big than femp", ""), ("femp", "glon are less big than"), ("Yes.", "Glon are less big than femp!"),
     ("So it is. Glon are less big than femp.", "")],
)  # fmt: skip
def test_a_test_statement_is_found_in_all_that_is_read_or_learned(text: str, prompt: str) -> None:
    question = Question("q", "w", "reversal", "reversal-more", "glon are less big than", ("femp", "zusu"), 0, "f", ())
    leaks = audit_leaks([question], [], [row(text, prompt)])
    assert leaks["verbatim_in_augmentations"] == 1
    other = row(*(part.lower().replace("glon", "zusu") for part in (text, prompt)))
    assert audit_leaks([question], [], [other])["verbatim_in_augmentations"] == 0


def test_an_export_has_prompt_and_form(tmp_path: Path) -> None:
    write(tmp_path / "augmentations")
    write_folder(tmp_path / "documents", Document, [Document("d", "It is.", "w")])
    export(tmp_path, tmp_path / "out", "parquet")
    found = pa.parquet.read_table(tmp_path / "out" / "augmentations" / "train.parquet").to_pylist()
    assert [(one["prompt"], one["form"]) for one in found] == [(one.prompt, one.form) for one in ROWS]
    assert [one.text for one in read_shard(next((tmp_path / "augmentations").glob("*.arrow")), Augmentation)] == [
        one.text for one in ROWS
    ]
