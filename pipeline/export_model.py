"""`entail export`: a checkpoint for other programs: whole weights, adapters, or GGUF with an Ollama Modelfile.

Reads a checkpoint or another model folder; GGUF is written by llama.cpp's own converter, which the user has.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from augment_service.chat import render
from augment_service.model_folder import load_tokenizer
from data.errors import InputError, ResumableError
from data.weights import is_adapter
from train.engine.export import merge_checkpoint

MERGED, ADAPTER, GGUF = "merged", "adapter", "gguf"
KINDS = (MERGED, ADAPTER, GGUF)
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "auto")
CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
MODEL_FILE, OLLAMA_FILE = "model.gguf", "Modelfile"
_SYSTEM, _USER, _ANSWER, _AGAIN = "[the system turn]", "[the first request]", "[the answer]", "[the second request]"


def export_model(checkpoint: Path, kind: str, out: Path, *, base: Path | None, converter: str, gguf_type: str) -> None:
    """Write a checkpoint into the new folder `out`.

    Raises InputError for a folder that has no model, or not the kind that is wanted, and for a converter that is not
    there or fails; ResumableError where nothing can be written.
    """
    if not (checkpoint / "config.json").exists() and not is_adapter(checkpoint):
        raise InputError("no model here", where=str(checkpoint), hint="name a checkpoint that `train` made")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("there are files already", where=f"--out {out}", hint="name a new folder")
    if kind == MERGED and is_adapter(checkpoint):
        merge_checkpoint(checkpoint, base, out)
        return
    if kind == ADAPTER and not is_adapter(checkpoint):
        hint = "train with --lora.rank, or export it as merged"
        raise InputError("this checkpoint has whole weights, no adapters", where=str(checkpoint), hint=hint)
    program = find_converter(converter) if kind == GGUF else []
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if kind == GGUF:
            _write_gguf(checkpoint, base, work, program, gguf_type)
        else:
            shutil.copytree(checkpoint, work, ignore=shutil.ignore_patterns(".*"))
        out.parent.mkdir(parents=True, exist_ok=True)
        os.replace(work, out)
    except OSError as error:
        raise ResumableError(f"the model could not be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def find_converter(given: str) -> list[str]:
    """The command of llama.cpp's converter: what was given, or what is on the PATH. Raises InputError."""
    found = shutil.which(given) or (given if Path(given).is_file() else "") if given else ""
    if not given:
        found = next(filter(None, map(shutil.which, CONVERTERS)), "")
    if not found:
        what = f"there is no converter at {given}" if given else f"llama.cpp's {CONVERTERS[0]} is not on the PATH"
        raise InputError(what, where="--converter", hint=f"name the file {CONVERTERS[0]} of your llama.cpp")
    return [sys.executable, found] if found.endswith(".py") else [found]


def _write_gguf(checkpoint: Path, base: Path | None, work: Path, program: Sequence[str], gguf_type: str) -> None:
    work.mkdir(parents=True)
    source = checkpoint
    if is_adapter(checkpoint):
        source = work / "merged"
        merge_checkpoint(checkpoint, base, source)
    command = [*program, str(source), "--outfile", str(work / MODEL_FILE), "--outtype", gguf_type]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (work / MODEL_FILE).exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        hint = "see whether your llama.cpp knows this architecture, or update it"
        raise InputError(f"the converter failed: {lines[-1][:300]}", where=" ".join(command), hint=hint)
    (work / OLLAMA_FILE).write_text(modelfile(source), encoding="utf-8")
    shutil.rmtree(work / "merged", ignore_errors=True)


def modelfile(folder: Path) -> str:
    """An Ollama Modelfile for `MODEL_FILE` beside it, with the chat template and the stop tokens of a model folder."""
    tokenizer = load_tokenizer(folder)
    lines = [f"FROM ./{MODEL_FILE}"]
    if tokenizer.chat_template:
        lines.append(f'TEMPLATE """{ollama_template(tokenizer)}"""')
    lines += [f"PARAMETER stop {json.dumps(token)}" for token in _stop_tokens(folder, tokenizer)]
    return "\n".join([*lines, ""])


def ollama_template(tokenizer: Any) -> str:
    """A chat template in the language of Ollama's: read off from how the tokenizer renders two rounds.

    Raises InputError for a template that does not render every turn once and unchanged.
    """
    user = {"role": "user", "content": _USER}
    rounds = [user, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _AGAIN}]
    before_user, _ = _split(render(tokenizer, [user], where="--to gguf"), (_USER,))
    plain = _split(render(tokenizer, rounds, where="--to gguf"), (_USER, _ANSWER, _AGAIN))
    _, to_answer, to_next, to_be_written = plain
    try:
        said = render(tokenizer, [{"role": "system", "content": _SYSTEM}, user], where="--to gguf")
        before_system, to_user, _ = _split(said, (_SYSTEM, _USER))
    except InputError:  # it has no system turn
        before_system, to_user = before_user, ""
    first, between, answer, begin, system, end = map(
        _quoted, (before_user, to_next, to_answer, to_be_written, before_system, to_user)
    )
    return (
        '{{ $last := "" }}{{ range .Messages }}'
        '{{ if eq .Role "system" }}' + system + "{{ .Content }}"
        '{{ else if eq .Role "user" }}'
        '{{ if eq $last "" }}' + first + '{{ else if eq $last "system" }}' + end + "{{ else }}" + between + "{{ end }}"
        "{{ .Content }}"
        '{{ else if eq .Role "assistant" }}' + answer + "{{ .Content }}{{ end }}"
        '{{ $last = .Role }}{{ end }}{{ if eq $last "user" }}' + begin + "{{ end }}"
    )


def _split(text: str, marks: Sequence[str]) -> list[str]:
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            what = f"the chat template renders a turn {text.count(mark)} times"
            raise InputError(what, where="--to gguf", hint="write the template of the Modelfile yourself")
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]


def _quoted(text: str) -> str:
    """A text in a template; what would begin or end something there is a constant."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')


def _stop_tokens(folder: Path, tokenizer: Any) -> list[str]:
    """The tokens that end a generation."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    ids = found if isinstance(found, list) else [found] if found is not None else []
    ids = list(dict.fromkeys([*ids, *filter(lambda number: number is not None, [tokenizer.eos_token_id])]))
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids) if token]
