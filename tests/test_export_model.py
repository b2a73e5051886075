"""Checkpoints for other programs: what is written, the template for Ollama, and a converter that fails."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model
from transformers import AutoTokenizer

from augment_service.chat import render
from data.errors import InputError
from pipeline.cli import main
from pipeline.export_model import MODEL_FILE, OLLAMA_FILE, export_model, modelfile, ollama_template

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set head = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}[INST] {{ head if loop.first else '' }}{{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BRACES = "{% for m in messages %}{{ '{{' }}{{ m['role'] }}}}{{ m['content'] }}\"\"\"{% endfor %}"
ACTION = re.compile(r"\{\{ (.*?) \}\}")
Messages = list[dict[str, str]]


def go(template: str, messages: Messages) -> str:
    """What Go's templates make of the actions that are used here."""
    parts = [(at % 2 == 1, part) for at, part in enumerate(ACTION.split(template))]
    names: dict[str, str] = {}

    def end_of(at: int) -> int:
        """The place of the action that ends or continues the block that begins at a place."""
        depth = 0
        while True:
            is_action, part = parts[at]
            if is_action and not depth and part.startswith(("else", "end")):
                return at
            depth += is_action and part.startswith(("if ", "range "))
            depth -= is_action and part == "end"
            at += 1

    def value(word: str, message: Any) -> str:
        if word.startswith('"'):
            return str(json.loads(word))
        return names[word] if word.startswith("$") else message[word[1:].lower()]

    def holds(test: str, message: Any) -> bool:
        _, one, other = test.split(" ")
        return value(one, message) == value(other, message)

    def run(at: int, stop: int, message: Any) -> Iterator[str]:
        while at < stop:
            is_action, part = parts[at]
            at += 1
            if not is_action:
                yield part
            elif part.startswith("$"):
                name, word = re.split(" :?= ", part)
                names[name] = value(word, message)
            elif part == "range .Messages":
                end = end_of(at)
                for one in messages:
                    yield from run(at, end, one)
                at = end + 1
            elif part.startswith("if "):
                is_done, test = False, part
                while test != "end":
                    end = end_of(at)
                    if not is_done and (test == "else" or holds(test.removeprefix("else ")[3:], message)):
                        yield from run(at, end, message)
                        is_done = True
                    at, test = end + 1, parts[end][1]
            else:
                yield value(part, message)

    return "".join(run(0, len(parts), None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m", 0, tied=True)


def tokenizer_with(folder: Path, template: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


TURNS = [("user", "Why?"), ("assistant", "So."), ("user", "And {{ then }}?"), ("assistant", "No."), ("user", "Oh.")]


@pytest.mark.parametrize("template", [CHATML, LLAMA2, GEMMA, BRACES])
@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("system", [False, True])
def test_ollama_reads_what_the_model_was_trained_to_read(
    folder: Path, template: str, number: int, system: bool
) -> None:
    if system and template == GEMMA:
        return
    tokenizer = tokenizer_with(folder, template)
    turns = [("system", "You are a mill.")] * system + TURNS[:number]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert go(ollama_template(tokenizer), messages) == render(tokenizer, messages, where="test")


def test_a_template_that_drops_a_turn_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="0 times"):
        ollama_template(tokenizer_with(folder, "{{ messages[-1]['content'] }}"))


def converter_of(path: Path, body: str) -> str:
    path.write_text(f"import sys, pathlib\n{body}")
    return str(path)


def test_the_converter_writes_beside_a_modelfile(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).write_text(' '.join(sys.argv[1:]))"
    words = ["export", str(folder), "--to", "gguf", "--type", "q8_0", "--out", str(tmp_path / "out")]
    assert main([*words, "--converter", converter_of(tmp_path / "convert.py", body)]) == 0
    said = (tmp_path / "out" / MODEL_FILE).read_text()
    assert said.startswith(f"{folder} --outfile ") and said.endswith("--outtype q8_0")
    assert (tmp_path / "out" / OLLAMA_FILE).read_text() == f'FROM ./{MODEL_FILE}\nPARAMETER stop "<eos>"\n'
    assert main([*words, "--converter", "convert.py"]) == 2
    assert "there are files already" in capsys.readouterr().err


def test_stop_tokens_are_those_of_the_generation(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    tokenizer_with(folder, CHATML).save_pretrained(tmp_path)
    text = modelfile(tmp_path)
    assert text.count("PARAMETER stop") == 3 and 'TEMPLATE """{{ $last := "" }}' in text


@pytest.mark.parametrize(
    ("body", "said"),
    [("sys.exit('x\\nModel FooForCausalLM is not supported')", "FooForCausalLM"), ("", "exit code 0")],
)
def test_a_converter_that_fails_leaves_nothing(folder: Path, tmp_path: Path, body: str, said: str) -> None:
    converter = converter_of(tmp_path / "convert.py", body)
    with pytest.raises(InputError, match=said):
        export_model(folder, "gguf", tmp_path / "out", base=None, converter=converter, gguf_type="auto")
    assert [path.name for path in tmp_path.iterdir()] == ["convert.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "gguf", "--converter", "nowhere.py"], "no converter at nowhere.py"),
        (["--to", "gguf"], "not on the PATH"),
        (["--to", "merged", "--type", "f16"], "--type has no effect"),
        (["--to", "adapter"], "no adapters"),
    ],
)
def test_wrong_input_is_one_message(
    folder: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert main(["export", str(folder), *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["export", str(tmp_path), "--to", "merged", "--out", str(tmp_path / "out")]) == 2
    assert "no model here" in capsys.readouterr().err


def test_whole_weights_are_copied_as_they_are(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder), "--to", "merged", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in folder.iterdir()}
