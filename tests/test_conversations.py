"""Conversations: which rows are some, what is learned of each turn through a model's own template, what is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import refuse
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from training_runs import losses, make_run, make_world, train_alone
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.conversations import read_messages, write_messages
from data.errors import InputError
from data.records import Conversation, Document, Question
from data.store import write_folder
from pipeline.stages.data import find_documents, find_texts
from pipeline.stages.train import describe_left_out
from train.run.finetune_run import TextSource
from train.run.keys import key_of
from train.run.training_plan import open_plan, write_texts
from train.texts.conversations import encode_conversations
from train.texts.encode import TextLimits, load_encoder
from train.texts.packing import Arithmetic
from train.texts.tokens import tokens_folder

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


LONG = [
    {"role": "system", "content": "Be brief."},
    *(
        {"role": role, "content": f"{number} {role} " + "x" * 40}
        for number in range(6)
        for role in ("user", "assistant")
    ),
]


@pytest.mark.parametrize("window", [150, 290, 400, 2000])
@pytest.mark.parametrize("messages", [LONG, LONG[1:]], ids=["system", "no system"])
def test_the_earliest_turns_of_a_long_conversation_are_left_out(
    tokenizer: Any, window: int, messages: list[dict[str, str]]
) -> None:
    """By brute force: each row is the first that fits of those that begin with later and later turns of the user."""
    found = encode_conversations([write_messages(messages)], tokenizer, TextLimits(window), where="here")
    system, rest = [m for m in messages if m["role"] == "system"], [m for m in messages if m["role"] != "system"]
    rows, num_cut = [], 0
    for end in range(2, len(rest) + 1, 2):
        shown = [[*system, *rest[begin:end]] for begin in range(0, end, 2)]
        texts = [tokenizer.apply_chat_template(some, tokenize=False).rstrip() for some in shown]
        fitting = [len(tokenizer(text)["input_ids"]) <= window for text in texts]
        rows.append(texts[fitting.index(True)])
        num_cut += fitting.index(True) > 0
    assert [tokenizer.decode(row) for row in found.rows] == rows
    answers = [f"{m['content']}<|im_end|>" for m in rest if m["role"] == "assistant"]
    learned = [tokenizer.decode(row[first:]) for row, first in zip(found.rows, found.firsts, strict=True)]
    assert learned == answers
    assert (found.cut, found.skipped, found.empty) == (num_cut, 0, 0)
    assert num_cut == {150: 5, 290: 4, 400: 3, 2000: 0}[window] or messages is not LONG


def test_turns_that_cannot_fit_are_left_out_and_counted(tokenizer: Any) -> None:
    large = [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "y"}]
    greeting = [{"role": "assistant", "content": "Hello."}, *TALK[1:3]]
    talks = [write_messages(messages) for messages in (large, TALK, greeting, [*large, *TALK[1:3]])]
    found = encode_conversations(talks, tokenizer, LIMITS, where="here")
    assert (found.skipped, found.cut, found.empty, found.texts) == (2, 1, 1, [1, 1, 2, 3])
    assert tokenizer.decode(found.rows[-1][found.firsts[-1] :]) == "Louis.<|im_end|>"
    skipping = encode_conversations(talks, tokenizer, TextLimits(LIMITS.window, "skip"), where="here")
    assert (skipping.skipped, skipping.cut, skipping.empty, skipping.texts) == (3, 0, 1, [1, 1, 2])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"role": "user", "content": "Hello?"}], "no turn of the assistant"),
        ([], "no turn of the assistant"),
        ([{"role": "tool", "content": "1"}, {"role": "assistant", "content": "One."}], "message 1 .*role 'tool'"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "One."}], "message 1 is missing"),
        ([{"role": "user", "content": ["Hi"]}, {"role": "assistant", "content": "One."}], "message 1 is not text"),
        ([{"role": "user", "content": "Hi"}, {"content": "One."}], "message 2 has no role"),
        ([{"role": ["user"], "content": "Hi"}], "unknown role"),
        (["Hi"], "message 1 is no object"),
        ({"role": "assistant", "content": "One."}, "an object in place of a list"),
        (None, "null in place of a list"),
        (3, "a number in place of a list"),
        ("Hello", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('"[]"', "a text in place of a list"),
    ],
)
def test_a_value_that_is_no_conversation_has_a_reason(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_messages(value)


def test_the_spellings_of_messages_are_one_form() -> None:
    wanted = [{"role": message["role"], "content": message["content"]} for message in TALK[:3]]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[message["role"]], "value": message["content"], "weight": 1} for message in wanted]
    in_table = [{"role": None, "content": None, **message} for message in sharegpt]
    named = [{**message, "name": "Ann"} for message in wanted]
    for value in (wanted, sharegpt, in_table, named, json.dumps(sharegpt), write_messages(wanted)):
        assert read_messages(value) == wanted


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


def write_talks(folder: Path, *talks: list[dict[str, str]], record: type[Document] = Conversation) -> Path:
    """A sealed folder of conversations."""
    write_folder(folder, record, [record(f"d{at}", write_messages(talk), "corpus") for at, talk in enumerate(talks)])
    return folder


def test_a_run_learns_the_turns_alone(tokenizer: Any, tmp_path: Path) -> None:
    """Its loss is that of the turns: the last step's is near zero, though nothing that is read is ever learned."""
    world = make_world(tmp_path / "world", vocab_size=260, max_position_embeddings=256)
    tokenizer.save_pretrained(world / "base")
    source = TextSource(str(write_talks(tmp_path / "talks", TALK, TALK[1:3])))
    run = make_run(world, tmp_path / "run", sources=(source,), batch_size=3, num_steps=60, learning_rate=1e-2)
    ref = train_alone(run)
    assert losses(ref)[0] > 4 and losses(ref)[-1] < 0.5
    log = [json.loads(line) for line in (Path(ref.path) / "metrics.jsonl").read_text().splitlines()]
    assert log[0]["tokens"] == sum(len(f"{answer}.") + 1 for answer in ("Louis", "France", "Louis"))
    other = AutoTokenizer.from_pretrained(world / "base")
    other.chat_template = CHATML.replace("assistant\n", "assistant:\n")
    before = key_of(run)
    other.save_pretrained(world / "base")
    load_encoder.cache_clear()
    assert key_of(dataclasses.replace(run, name="again")) != before


def test_a_folder_that_wrongly_claims_conversations_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    write_folder(tmp_path / "talks", Conversation, [Conversation("d0", "w1 w2", "corpus")])
    with pytest.raises(InputError, match="no conversation"):
        train_alone(make_run(world, tmp_path / "run", sources=(TextSource(str(tmp_path / "talks")),)))


@pytest.mark.parametrize("change", [{"split": "independent"}, {"prompt_column": "corpus"}, {"text_column": "doc_id"}])
def test_settings_that_conversations_do_not_have_are_refused(tmp_path: Path, change: dict[str, str]) -> None:
    world, talks = make_world(tmp_path / "world"), write_talks(tmp_path / "talks", TALK)
    with pytest.raises(InputError, match="no effect on conversations"):
        key_of(make_run(world, tmp_path / "run", sources=(TextSource(str(talks), **change),)))


def test_tokens_and_runs_are_named_by_what_decides_the_rows(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text as a document and as a conversation, another template, another version of the encoding."""
    world = make_world(tmp_path / "world", vocab_size=260)
    tokenizer.save_pretrained(world / "base")
    talks = TextSource(str(write_talks(tmp_path / "talks", TALK)))
    documents = TextSource(str(write_talks(tmp_path / "documents", TALK, record=Document)))
    names = []

    def add(source: TextSource) -> None:
        load_encoder.cache_clear()
        encoder = load_encoder(str(world / "base"))
        run = make_run(world, tmp_path / "run", sources=(source,))
        names.append((tokens_folder(source, tmp_path, encoder, LIMITS).name, key_of(run)))

    add(documents)
    add(talks)
    monkeypatch.setattr("train.texts.conversations._VERSION", 0)
    add(talks)
    other = AutoTokenizer.from_pretrained(world / "base")
    other.chat_template = CHATML.replace("im_start", "start")
    other.save_pretrained(world / "base")
    add(talks)
    add(documents)
    assert names[0] == names[4]
    for column in zip(*names[:4], strict=True):
        assert len(set(column)) == 4


def test_a_plan_counts_the_turns_of_conversations_with_the_other_texts(tokenizer: Any, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", vocab_size=260, max_position_embeddings=150)
    tokenizer.save_pretrained(world / "base")
    load_encoder.cache_clear()
    large = [{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "y"}]
    write_folder(tmp_path / "documents", Document, [Document("d0", "z" * 200, "w0"), Document("d1", "", "w0")])
    sources = tuple(
        TextSource(str(folder)) for folder in (write_talks(tmp_path / "talks", LONG, large), tmp_path / "documents")
    )
    for long_texts, counts, num_rows in (("cut", (6, 1, 1), 6 + 2), ("skip", (0, 7, 1), 1)):
        run = make_run(world, tmp_path / long_texts, sources=sources, long_texts=long_texts)
        write_texts(run)
        plan = open_plan(run, None, Arithmetic(1.0, 1.0), world_size=1)
        assert tuple(plan.summary()["texts"][name] for name in ("cut", "skipped", "empty")) == counts
        assert len(plan.rows) == num_rows
    alone = (TextSource(str(write_talks(tmp_path / "large", large))),)
    with pytest.raises(InputError, match="all 1 training texts") as refusal:
        write_texts(make_run(world, tmp_path / "none", sources=alone))
    assert "long_texts" not in refusal.value.hint  # which is "cut" already
    shown = describe_left_out([{"cut": 2, "skipped": 0, "empty": 1}, {"cut": 3}], with_turns=True)
    assert re.findall(r"\d+", shown) == ["5", "1"] and "turn" in shown
    assert "turn" not in describe_left_out([{"cut": 2}])
    assert describe_left_out([{}], with_turns=True) == ""


def test_files_of_conversations_are_imported_for_training_alone(tmp_path: Path) -> None:
    path, told = tmp_path / "talks.jsonl", list[tuple[str, str]]()

    def say(label: str, text: str) -> None:
        told.append((label, text))

    rows = [{"messages": TALK}, {"messages": "hello"}, {"messages": TALK[1:3]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = find_texts(path, tmp_path / "import", say, messages_column="messages")
    assert [label for label, _ in told] == ["rejected"] and "1 no conversation" in told[0][1]
    assert find_texts(path, tmp_path / "import", say, messages_column="messages") == found
    for folder in (tmp_path / "import", found):
        assert find_texts(folder, tmp_path / "out", say) == found
        with pytest.raises(InputError, match="--messages-column"):
            find_texts(folder, tmp_path / "out", say, messages_column="messages")
        with pytest.raises(InputError, match="conversations, not documents"):
            find_documents(folder, tmp_path / "out", say)
    assert not (tmp_path / "out").exists()


COMMANDS = {
    "augment": ("augment", "--documents", "{talks}", "--model", "{base}", "--engine", "fake", "--out", "{out}"),
    "evaluate": ("evaluate", "--documents", "{talks}", "--suite", "{suite}", "--model", "{base}", "--engine", "fake",
                 "--contexts", "all", "--out", "{out}"),
    "evaluate's own": ("evaluate", "--suite", "{own}", "--model", "{base}", "--engine", "fake", "--out", "{out}"),
    "audit": ("data", "audit", "{talks}"),
    "plan": ("train", "--documents", "{talks}", "--model", "{base}", "--messages-column", "messages", "--plan",
             "--out", "{out}"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_read_documents_refuse_conversations(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talks, suite = tmp_path / "import", tmp_path / "suite.jsonl"
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    find_texts(tmp_path / "talks.jsonl", talks, lambda *_: None, messages_column="messages")
    suite.write_text('{"prompt": "glon are", "options": ["femp", "jeex"], "answer": 0, "split": "a"}\n')
    shutil.copytree(talks / "documents", tmp_path / "own" / "documents")
    question = Question("q", "corpus", "a", "x", "glon are", ("femp", "jeex"), 0, "f", ())
    write_folder(tmp_path / "own" / "questions", Question, [question])
    names = {"talks": talks, "base": "models/tiny", "suite": suite, "own": tmp_path / "own", "out": tmp_path / "out"}
    message = refuse(capsys, *(word.format(**names) for word in COMMANDS[command]))
    assert "onversation" in message
