"""Command-line flags, generated from the sections: each field is `--section.key` and, where unambiguous, `--key`.

Values are collected as text, with the flag as it was written; `pipeline.recipe` validates them, so that one check
serves files and flags. Underscores in a flag are understood as hyphens.
"""

import argparse
import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data.errors import InputError
from pipeline.sections import Section

Path_ = tuple[str, ...]
_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


class Leaf(NamedTuple):
    """One setting: the path of its key, its flag without the section, its field."""

    path: Path_
    short: str
    field: FieldInfo


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors that name the command, and that knows `overrides`.

    `tables` are prefixes of keys whose last part is free, e.g. ("train", "arms").
    """

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **{"allow_abbrev": False, "formatter_class": _Help, **options})
        self.tables: list[Path_] = []
        self.set_defaults(overrides={})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class; words that are left over are an error of this command, not of the root."""
        words, free = self._split_free([self._normalise(word) for word in args or ()])
        found, rest = super().parse_known_args(words, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            known = list(self._option_string_actions)
            near = difflib.get_close_matches(name, known, n=1) if name.startswith("-") else []
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise InputError(f"unknown word {name}", where=self.prog, hint=hint)
        found.overrides = {**found.overrides, **free}
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of exiting."""
        raise InputError(message, where=self.prog, hint=f"see {self.prog} --help")

    def _normalise(self, word: str) -> str:
        name, sign, value = word.partition("=")
        hyphened = name.replace("_", "-")
        return hyphened + sign + value if hyphened in self._option_string_actions else word

    def _split_free(self, words: Sequence[str]) -> tuple[list[str], dict[Path_, tuple[str, str]]]:
        """The words without flags of free names, such as `--train.arms.mine local`, and these."""
        rest: list[str] = []
        free: dict[Path_, tuple[str, str]] = {}
        queue = list(words)
        while queue:
            word = queue.pop(0)
            name, sign, value = word.partition("=")
            path = None if name in self._option_string_actions else self._free_path(name)
            if path is None:
                rest.append(word)
                continue
            if not sign and (not queue or queue[0].startswith("--")):
                raise InputError(f"{name} needs a value", where=self.prog, hint=f"write {name} VALUE")
            free[path] = name, value if sign else queue.pop(0)
        return rest, free

    def _free_path(self, name: str) -> Path_ | None:
        parts = tuple(name.removeprefix("--").split("."))
        if not name.startswith("--") or len(parts) < 2:
            return None
        for table in self.tables:
            if parts[0] == table[-1] and len(table) == 2 and len(parts) == 2:
                parts = (table[0], *parts)  # --arms.mine
            if parts[: len(table)] == table and len(parts) == len(table) + (2 if table == ("data",) else 1):
                key = parts[-1].replace("-", "_") if table == ("data",) else parts[-1]
                return (*parts[:-1], key)
        return None


class _Help(argparse.HelpFormatter):
    """Long flags have their help on a line of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=112)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"


def add_sections(parser: Parser, sections: Mapping[str, type[Section]], *, exclude: Collection[str] = ()) -> None:
    """Flags for every field of these sections; of the same short flag of several sections only the long spellings."""
    counts = Counter(leaf.short for name, model in sections.items() for leaf in leaves(model, (name,)))
    for name, model in sections.items():
        group = parser.add_argument_group(name, (model.__doc__ or "").partition("\n\n")[0].replace("\n", " "))
        for leaf in leaves(model, (name,)):
            if leaf.path[1] not in exclude:
                flags = [f"--{'.'.join(leaf.path).replace('_', '-')}"]
                flags += [f"--{leaf.short}"] * (counts[leaf.short] == 1)
                add_field(group, flags, leaf.path, leaf.field)


def add_field(parser: Any, flags: list[str], path: Path_, field: FieldInfo) -> None:
    """One flag for one field, with all its spellings."""
    extra = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
    options = {"path": path, "metavar": _metavar(field), "help": _help(field), "default": argparse.SUPPRESS}
    parser.add_argument(*flags, action=_Override, **options, **extra)


def leaves(model: type[BaseModel], path: Path_) -> Iterator[Leaf]:
    """The settings of a section, those of nested sections after it."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*path, name))
            continue
        short = getattr(model, "short", {}).get(name, "-".join((*path[1:], name)).replace("_", "-"))
        yield Leaf((*path, name), short, field)


class _Override(argparse.Action):
    """Collects a value under the path of its key, with the flag as it was written."""

    def __init__(self, *words: Any, path: Path_, **options: Any) -> None:
        super().__init__(*words, **options)
        self.path = path

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Later values win."""
        namespace.overrides = {**namespace.overrides, self.path: (option_string or "", str(values))}


def _metavar(field: FieldInfo) -> str:
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    for kind in (field.annotation, *kinds):
        if get_origin(kind) is Literal:
            return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(field.annotation) in (tuple, dict):
        return "A,B" if get_origin(field.annotation) is tuple else "KEY=VALUE,..."
    return {int: "N", float: "X", bool: "true|false"}.get(kinds[0], "TEXT")


def _help(field: FieldInfo) -> str:
    text, default = field.description or "", field.default
    found = ((words, getattr(item, name, None)) for item in field.metadata for name, words in _BOUNDS.items())
    notes = [words.format(bound) for words, bound in found if bound is not None]
    if "default" not in text and not field.is_required() and default not in (None, "", (), {}):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        if isinstance(default, dict):
            shown = " ".join(f"{key}={','.join(value) or '-'}" for key, value in default.items())
        notes.append(f"default: {shown.lower() if isinstance(default, bool) else shown}")
    start = f"{text[:-1]}; " if text.endswith(")") and notes else f"{text} (" if notes else text
    return (start + "; ".join(notes) + ")" * bool(notes)).replace("%", "%%")
