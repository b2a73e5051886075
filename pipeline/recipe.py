"""Recipes: TOML and command-line overrides, read into closed sections; every error names its key or its flag."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError

from data.errors import InputError
from pipeline.data_section import DataSection, section_class
from pipeline.sections import Augment, Cluster, Engine, EvaluateStudy, Section, Train

RECIPES = Path(__file__).with_name("recipes")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a study and of a corpus: names of folders
Overrides = Mapping[tuple[str, ...], tuple[str, str]]  # path of a key -> the flag as it was written, its value
AnySection = TypeVar("AnySection", bound=Section)


class Recipe(Section):
    """A study: corpora with questions, a base model, and what is done with both."""

    study: str = Field(description="name of the study")
    seed: int = Field(0, description="of the generated sets and of the sampling; train.seeds are the training's")
    model: str = Field("models/tiny", description="a folder, or a model of the Hugging Face hub")
    data: dict[str, SerializeAsAny[DataSection]]
    engine: Engine = Engine()
    augment: Augment = Augment()
    train: Train = Train()
    evaluate: EvaluateStudy = EvaluateStudy()
    cluster: Cluster = Cluster()


def load_recipe(path: Path, overrides: Overrides | None = None) -> Recipe:
    """Read a recipe; `overrides` are keys from the command line. Raises InputError."""
    if not path.is_file():
        raise InputError(
            "recipe not found", where=str(path), hint=f"pass the path of a .toml file; bundled recipes are in {RECIPES}"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML: {error}", where=str(path), hint="fix the line") from error
    return parse_recipe(content, overrides or {}, where=str(path))


def parse_recipe(content: dict[str, Any], overrides: Overrides, *, where: str) -> Recipe:
    """A recipe from the content of its file; a section of [data] that is named by an override alone is added."""
    for keys, (flag, value) in overrides.items():
        _insert(content, Recipe, keys, flag, value, overrides)
    data = content.get("data")
    if not isinstance(data, dict) or not data:
        raise InputError(
            "no corpus is named", where=where, hint="add a section such as [data.reversals] or [data.mine]"
        )
    for name, keys in data.items():
        if not NAME.fullmatch(name) or not isinstance(keys, dict):
            raise InputError(
                f'"{name}" is not a section of [data]',
                where=where,
                hint='use letters, digits, ".", "_" and "-" in [data.NAME], with keys of its own',
            )
    sections = {
        name: _validate(section_class(name), keys, ("data", name), overrides, where) for name, keys in data.items()
    }
    recipe = _validate(Recipe, content | {"data": sections}, (), overrides, where)
    if not NAME.fullmatch(recipe.study):
        raise InputError(f'"{recipe.study}" cannot name a study', where=where, hint='use letters, digits, "_" and "-"')
    return recipe


def parse_section(model: type[AnySection], name: str, overrides: Overrides, *, command: str) -> AnySection:
    """One section from flags alone; `name` is the first part of the overrides' paths that belong to it."""
    content: dict[str, Any] = {}
    mine = {keys[1:]: found for keys, found in overrides.items() if keys[0] == name}
    for keys, (flag, value) in mine.items():
        _insert(content, model, keys, flag, value, mine)
    return _validate(model, content, (), mine, command)


def to_toml(recipe: Recipe) -> str:
    """The recipe with its overrides as TOML that `entail run` accepts; keys at their defaults are left out."""
    lines: list[str] = []
    _write_table(json.loads(recipe.model_dump_json(exclude_none=True, exclude_unset=True)), (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if path and values:
        lines += ["", f"[{'.'.join(map(_toml_key, path))}]"]
    lines += [f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(value, (*path, key), lines)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _insert(
    content: dict[str, Any], root: type[BaseModel], keys: tuple[str, ...], flag: str, value: str, overrides: Overrides
) -> None:
    """Put one override into the content; it replaces keys that exclude it, unless they are given as flags, too."""
    table, model = content, root
    for depth, key in enumerate(keys[:-1]):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise InputError(f'"{key}" is a value, not a section', where=flag, hint=f"write --{key} VALUE")
        model = _model_at(root, keys[: depth + 1]) or model
    last = keys[-1]
    for group in getattr(model, "exclusive", ()):
        if last in group:
            for other in set(group) - {last}:
                if (*keys[:-1], other) not in overrides:
                    table.pop(other, None)
    table[last] = parse_value(value, _annotation_at(root, keys))


def _annotation_at(root: type[BaseModel], keys: tuple[str, ...]) -> Any:
    """The type of the value at a path of keys; of a table of free names, the type of its values."""
    parent = _model_at(root, keys[:-1])
    if parent is not None:
        field = parent.model_fields.get(keys[-1])
        return field.annotation if field else None
    table = get_args(_annotation_at(root, keys[:-1])) if len(keys) > 1 else ()
    return table[1] if len(table) == 2 else None


def parse_value(text: str, annotation: Any = None) -> Any:
    """A flag's value: TOML where it is; for lists also a,b and for tables also key=value,key=value."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    if get_origin(annotation) is dict:
        if isinstance(value, dict):
            return value
        pairs = [part.partition("=") for part in text.split(",")]
        return {key.strip(): parse_value(part.strip(), get_args(annotation)[1]) for key, _, part in pairs}
    kinds = {get_origin(kind) or kind for kind in (annotation, *get_args(annotation))}
    if tuple in kinds and not isinstance(value, list):
        return [parse_value(part.strip()) for part in text.split(",") if part.strip()]
    if kinds <= {str, type(None)} and str in kinds:
        return value if isinstance(value, str) else text
    return value


def _validate(
    model: type[AnySection], content: Mapping[str, Any], prefix: tuple[str, ...], overrides: Overrides, where: str
) -> AnySection:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _explain(error, model, prefix, overrides, where) from error


def _explain(
    error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...], overrides: Overrides, where: str
) -> InputError:
    """The first error, with the flag where the value came from one, else with the file."""
    first = error.errors()[0]
    inside = tuple(str(part) for part in first["loc"] if not isinstance(part, int))
    path = (*prefix, *inside)
    flags = [flag for keys, (flag, _) in overrides.items() if path[: len(keys)] == keys]
    if not flags and first["type"] == "missing":
        path = path[:-1]
    if not flags and not first["type"].startswith("extra"):  # a check of a whole section
        flags = [flag for keys, (flag, _) in overrides.items() if keys[: len(path)] == path and path]
    where, key = flags[-1] if flags else where, ".".join((*prefix, *inside))
    parent = _model_at(model, inside[:-1]) or model
    if first["type"] == "extra_forbidden":
        known = [field.replace("_", "-") if flags else field for field in parent.model_fields]
        nearest = difflib.get_close_matches(inside[-1].replace("_", "-") if flags else inside[-1], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
        return InputError(f"unknown key {key}", where=where, hint=hint)
    if first["type"] == "missing":
        return InputError(f"{key} is missing", where=where, hint=f"add {inside[-1]} = ...")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        named = message if not key or key in message else f"{key}: {message}"
        return InputError(named, where=where, hint="change or remove one of these settings")
    field = parent.model_fields.get(inside[-1]) if inside else None
    hint = f"{inside[-1]}: {field.description}" if field is not None and field.description else "give another value"
    return InputError(f"{key}: {message} (got {first['input']!r})", where=where, hint=hint)


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The section at a path of keys; None where there is none (a table of free names, such as train.arms)."""
    for index, name in enumerate(path):
        if model is Recipe and name == "data":
            return section_class(path[index + 1]) if len(path) > index + 1 else None
        field = model.model_fields.get(name)
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        found = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model
