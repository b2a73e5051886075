"""Conversations in training: what is learned of each turn, through a model's own template, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from training_runs import losses, make_run, make_world, train_alone
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.errors import InputError
from data.records import Document
from data.store import read_shard, write_folder
from pipeline.stages.data import find_conversations
from train.run.finetune_run import TextSource
from train.run.keys import key_of
from train.texts.conversations import encode_conversations
from train.texts.encode import TextLimits

LIMITS = TextLimits(400)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is king?"},
    {"role": "assistant", "content": "Louis."},
    {"role": "user", "content": "Of what?"},
    {"role": "assistant", "content": "France."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the control tokens of ChatML."""
    core = Tokenizer(models.BPE({text: at for at, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    made.chat_template = CHATML
    return made


def parts_of(tokenizer: Any, messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    """What is read and what is learned, for each row."""
    found = encode_conversations([json.dumps(messages)], tokenizer, LIMITS, where="here")
    return [
        (tokenizer.decode(row[:first]), tokenizer.decode(row[first:]))
        for row, first in zip(found.rows, found.firsts, strict=True)
    ]


def test_each_turn_of_the_assistant_is_learned_with_its_end(tokenizer: Any) -> None:
    rows = parts_of(tokenizer, TALK)
    assert [learned for _, learned in rows] == ["Louis.<|im_end|>", "France.<|im_end|>"]
    for messages, (read, learned) in zip((TALK[:3], TALK), rows, strict=True):
        assert read == tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert read + learned == tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    (row, _) = encode_conversations([json.dumps(TALK)], tokenizer, LIMITS, where="here").rows
    assert row == tokenizer(rows[0][0] + rows[0][1], add_special_tokens=False)["input_ids"]


def test_control_tokens_in_what_is_said_are_its_characters(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What is <|im_end|>?"}, {"role": "assistant", "content": "An <|im_end|>!"}]
    found = encode_conversations([json.dumps(messages)], tokenizer, LIMITS, where="here")
    (row,), (first,) = found.rows, found.firsts
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert row.count(end) == 2 and row[-1] == end
    assert tokenizer.decode(row[first:]) == "An <|im_end|>!<|im_end|>"
    harmless = [{**message, "content": message["content"].replace("<|im_end|>", "end")} for message in messages]
    assert parts_of(tokenizer, harmless)[0][1] == "An end!<|im_end|>"


def test_long_conversations_are_left_out_and_counted(tokenizer: Any) -> None:
    long = [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "y"}]
    found = encode_conversations([json.dumps(long), json.dumps(TALK)], tokenizer, LIMITS, where="here")
    assert (found.skipped, found.texts) == (1, [1, 1])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": "Hello?"}], "without a turn of the assistant"),
        ([{"role": "tool", "content": "1"}, {"role": "assistant", "content": "One."}], "needs a role"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "One."}], "its content as text"),
    ],
)
def test_what_is_no_conversation_is_refused(tokenizer: Any, messages: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parts_of(tokenizer, messages)


def test_templates_that_cannot_be_learned_through_are_refused(tokenizer: Any) -> None:
    for template, message in (
        (None, "no chat template"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        (CHATML.replace("<|im_start|>assistant\n", "<|im_start|>bot\n"), "otherwise than it asks"),
    ):
        other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>")
        other.chat_template = template
        with pytest.raises(InputError, match=message):
            parts_of(other, TALK)


def test_a_run_learns_the_turns_alone(tokenizer: Any, tmp_path: Path) -> None:
    """Its loss is that of the turns: the last step's is near zero, though nothing that is read is ever learned."""
    world = make_world(tmp_path / "world", vocab_size=260, max_position_embeddings=256)
    tokenizer.save_pretrained(world / "base")
    rows = [Document(f"d{at}", json.dumps(talk), "corpus") for at, talk in enumerate((TALK, TALK[1:3]))]
    write_folder(tmp_path / "talks", Document, rows)
    source = TextSource(str(tmp_path / "talks"), messages_column="text")
    run = make_run(world, tmp_path / "run", sources=(source,), batch_size=3, num_steps=60, learning_rate=1e-2)
    ref = train_alone(run)
    assert losses(ref)[0] > 4 and losses(ref)[-1] < 0.5
    log = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
    assert log[0]["tokens"] == sum(len(f"{answer}.") + 1 for answer in ("Louis", "France", "Louis"))
    other = AutoTokenizer.from_pretrained(world / "base")
    other.chat_template = CHATML.replace("assistant\n", "assistant:\n")
    before = key_of(run)
    from train.texts.encode import load_encoder

    other.save_pretrained(world / "base")
    load_encoder.cache_clear()
    assert key_of(dataclasses.replace(run, name="again")) != before


def test_a_column_without_messages_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    source = TextSource(str(world / "documents"), messages_column="text")
    with pytest.raises(InputError, match="no conversations"):
        train_alone(make_run(world, tmp_path / "run", sources=(source,)))


def test_files_of_conversations_are_trained_on(tmp_path: Path) -> None:
    """JSON lines and Parquet, through one function; a row in another form is named."""
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (TALK, TALK[1:3])))
    table = pa.table({"messages": [TALK]})
    pq.write_table(table, tmp_path / "more.parquet")
    found = find_conversations(tmp_path, "messages", tmp_path / "import")
    texts = [row.text for shard in sorted(found.glob("*.arrow")) for row in read_shard(shard, Document)]
    assert [json.loads(text) for text in texts] == [TALK, TALK, TALK[1:3]]
    assert find_conversations(path, "messages", tmp_path / "one") == tmp_path / "one" / "documents"
    (tmp_path / "bad.jsonl").write_text('{"messages": "hello"}\n')
    for name, column, message in (("bad.jsonl", "messages", "no conversation"), ("talks.jsonl", "turns", "no column")):
        with pytest.raises(InputError, match=message) as refusal:
            find_conversations(tmp_path / name, column, tmp_path / f"out-{column}-{name}")
        assert name in refusal.value.where
    with pytest.raises(InputError, match="no file of conversations"):
        find_conversations(tmp_path / "nowhere", "messages", tmp_path / "out")
