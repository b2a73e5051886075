"""Your own question suites: JSON lines, each checked, with all wrong lines reported at once.

Reads a file of one object per line: `prompt`, `options` (two or more), `answer` (the right option's text, or its
number from 0), `split`; optionally `id`, `corpus` (or its old name `world`), `inference`, `fact_id`, `requires` (ids of
documents), `also_right` and `also_true` (lists of options, as texts or numbers), `joiner` (what is between prompt and
option: a space, a line end, or nothing, as between Chinese words). Other keys are ignored, unless they look like a
misspelling of one of these.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.corpora.reading import DEFAULT_CORPUS, is_unicode
from data.errors import InputError
from data.records import Question
from data.seeds import fingerprint

_REQUIRED = ("prompt", "options", "answer", "split")
_OPTIONAL = ("id", "question_id", "corpus", "inference", "fact_id")
_ALSO = ("also_right", "also_true")
_JOINERS = (" ", "", "\n")
_MAX_SHOWN = 5
_HINT = 'a line looks like {"prompt": "glon are", "options": ["femp", "troff"], "answer": "femp", "split": "reversal"}'


class _LineError(ValueError):
    """The error of one line."""


def read_suite_file(path: Path) -> list[Question]:
    """The questions of a file, in order. Raises InputError with the numbers of all wrong lines."""
    questions: list[Question] = []
    lines_of: dict[str, int] = {}
    wrong: list[tuple[int, str]] = []
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (OSError, ValueError) as error:  # a ValueError: a null byte in the path
        what = f"the suite cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError(what, where=str(path), hint="name a .jsonl file, or a folder with questions/") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _question(_object(line))
            if (first := lines_of.setdefault(question.question_id, number)) != number:
                raise _LineError(f"the same question as line {first}")
        except _LineError as error:
            wrong.append((number, str(error)))
        else:
            questions.append(question)
    if wrong:
        shown = "; ".join(f"line {number}: {what}" for number, what in wrong[:_MAX_SHOWN])
        more = f"; and {len(wrong) - _MAX_SHOWN} more" if len(wrong) > _MAX_SHOWN else ""
        raise InputError(f"{shown}{more}", where=f"{path}:{wrong[0][0]}", hint=_HINT)
    if not questions:
        raise InputError("no questions here", where=str(path), hint=_HINT)
    return questions


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        raise _LineError(f"not UTF-8 (byte {error.start + 1})") from error
    except (ValueError, RecursionError) as error:
        raise _LineError(f"broken JSON ({error})") from error
    if not isinstance(found, dict):
        raise _LineError("not an object")
    if "world" in found:
        found.setdefault("corpus", found.pop("world"))
    missing = [key for key in _REQUIRED if key not in found]
    known = (*_REQUIRED, *_OPTIONAL, "requires", "joiner", *_ALSO)
    for key in found.keys() - set(known):
        if near := difflib.get_close_matches(key, [name for name in known if name not in found], 1, cutoff=0.8):
            raise _LineError(f'unknown key "{key}", did you mean "{near[0]}"?')
    if missing:
        raise _LineError(f'no "{missing[0]}"')
    return found


def _question(found: Mapping[str, Any]) -> Question:
    prompt, split = _text(found, "prompt"), _text(found, "split")
    options = _options(found["options"])
    answer = _number(found["answer"], options, "answer")
    texts = {key: _text(found, key) for key in _OPTIONAL if found.get(key) is not None}
    requires = found.get("requires") or []
    if not isinstance(requires, list) or not all(isinstance(doc_id, str) for doc_id in requires):
        raise _LineError('"requires" is not a list of document ids')
    if (joiner := found.get("joiner", " ")) not in _JOINERS:
        raise _LineError(f'"joiner" is {json.dumps(joiner)[:40]}, not a space, a line end or empty')
    also = {key: _others(found.get(key) or [], options, key) for key in _ALSO}
    if len({answer, *also["also_right"], *also["also_true"]}) < 1 + sum(map(len, also.values())):
        raise _LineError('"answer", "also_right" and "also_true" name an option twice')
    corpus = texts.get("corpus", DEFAULT_CORPUS)
    question_id = texts.get("id", texts.get("question_id", fingerprint(corpus, split, prompt, joiner, *options)))
    return Question(
        question_id=question_id,
        corpus=corpus,
        split=split,
        inference=texts.get("inference", split),
        prompt=prompt,
        options=options,
        answer=answer,
        fact_id=texts.get("fact_id", question_id),
        requires=tuple(requires),
        joiner=joiner,
        **also,
    )


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found[key]
    if key in {"id", "question_id", "fact_id"} and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise _LineError(f'"{key}" is {json.dumps(value)[:40]}, not a text')
    if not is_unicode(value):
        raise _LineError(f'"{key}" holds a lone surrogate')
    return value.strip()


def _options(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise _LineError('"options" is not a list of two or more texts')
    options = tuple(_text({"options": option}, "options") for option in value)
    if len(set(options)) < len(options):
        raise _LineError("two options are the same")
    return options


def _others(value: object, options: tuple[str, ...], key: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _LineError(f'"{key}" is not a list of options')
    return tuple(_number(one, options, key) for one in value)


def _number(value: object, options: tuple[str, ...], key: str) -> int:
    """The number of the option that a key names."""
    if isinstance(value, str) and value.strip() in options:
        return options.index(value.strip())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    raise _LineError(
        f'"{key}" is {json.dumps(value)[:40]}: neither an option nor a number from 0 to {len(options) - 1}'
    )
