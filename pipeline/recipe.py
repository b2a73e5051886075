"""Recipes: TOML read into closed, frozen models. An unknown key is an error that names the nearest key."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from data.errors import InputError
from pipeline.set_sections import Data, Section, SetSection
from pipeline.train_section import TrainingComputation, TrainingTexts

ROOT = Path(__file__).resolve().parent.parent
RECIPES = Path(__file__).with_name("recipes")


class Augment(Section):
    """Which inferences the model writes down: methods by name, generations of each sentence, temperature."""

    methods: tuple[str, ...] = ("local", "global")
    samples: int = Field(2, ge=1)
    temperature: float = Field(0.7, ge=0)


class Train(TrainingTexts, TrainingComputation):
    """One finetuning recipe for all arms: they differ in their texts alone, and are matched in steps or in tokens.

    `stage` "auto" is the smallest ZeRO stage that fits the memory of a rank; without `memory_check` nothing is refused
    for its need of memory. `trackers` get the log beside `metrics.jsonl`: tensorboard, wandb, mlflow.
    """

    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(10, ge=0)
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    stage: Literal[0, 1, 2, 3, "auto"] = 1
    memory_check: bool = True
    trackers: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]] = Field(
        {"finetuned": (), "rephrased": ("local/rephrase",), "augmented": ("local", "global")}
    )


class Cluster(Section):
    """Where it runs; nothing given means this machine.

    A shard of work (some hundred rows) that takes longer than `deadline_seconds` costs its engine a restart; an engine
    that is not ready after `start_seconds` ends the run.
    `metrics_port` serves the counts of the work under way to Prometheus, on loopback.
    """

    address: str | None = None
    engines: int | None = Field(None, ge=1)
    ranks: int | None = Field(None, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    kv_cache_gib: float = Field(0.5, gt=0)
    deadline_seconds: float | None = Field(None, gt=0)
    start_seconds: float = Field(1800, gt=0)
    metrics_port: int | None = Field(None, ge=0, le=65535)


class Recipe(Section):
    """A study: sets of questions, a base model, and what is done to both."""

    study: str
    seed: int = 0
    model: str = "models/tiny"
    data: Data
    augment: Augment = Augment()
    train: Train = Train()
    cluster: Cluster = Cluster()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are command-line words `--section.key VALUE`."""
    if not path.exists():
        raise InputError("there is no such recipe", where=str(path), hint=f"name a TOML file; ours lie in {RECIPES}")
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"this is not TOML: {error}", where=str(path), hint="fix the line") from error
    for flag, value in _pairs(overrides):
        _set(content, flag.removeprefix("--").split("."), value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise _explain(error, str(path), Recipe) from error


def default_section(name: str, overrides: Sequence[str]) -> SetSection:
    """The section of one set at the paper's full size; `overrides` are words `--key VALUE`, e.g. `--lexicon tiny`."""
    content: dict[str, Any] = {"lexicon": "open"}
    for flag, value in _pairs(overrides):
        _set(content, [flag.removeprefix("--")], value)
    try:
        (section,) = Data.model_validate({name: content}).sets().values()
    except ValidationError as error:
        raise _explain(error, f"data make {name}", Data) from error
    return section


def local_model(name: str) -> str:
    """The absolute path of a model folder; a hub model is fetched (safetensors, no code) into the hub's own cache.

    A relative path is looked up here and in the project's folder.
    """
    for candidate in (Path(name), ROOT / name):
        if (candidate / "config.json").exists():
            return str(candidate.resolve())
    if name.count("/") != 1 or name.startswith((".", "/", "models/")):
        raise InputError(
            f'no model folder "{name}" (a folder with a config.json)',
            where="recipe key model, flag --model",
            hint="name a folder or a hub model; `python -m pipeline pretrain` makes models/tiny",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f'"{name}" is no model folder here, and the hub did not give it: {type(error).__name__}',
            where="recipe key model, flag --model",
            hint="check the name and the network, or name a folder",
        ) from error


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    flat = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(flat) % 2 or any(not flag.startswith("--") for flag in flat[::2]):
        raise InputError(
            f"these words are no overrides: {' '.join(words)}",
            where="command line",
            hint="write --section.key VALUE, e.g. --train.steps 100",
        )
    return list(zip(flat[::2], flat[1::2], strict=True))


def _set(content: dict[str, Any], keys: list[str], value: str) -> None:
    *sections, last = keys
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise InputError(f'"{section}" is no section', where=f"--{'.'.join(keys)}", hint=f"write --{section} VALUE")
    try:
        content[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        content[last] = value  # a bare word is a string


def _explain(error: ValidationError, where: str, root: type[BaseModel]) -> InputError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_at(root, path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1)
        hint = f'did you mean "{nearest[0]}"?' if nearest else f"known here: {', '.join(known)}"
        return InputError(f'unknown key "{key}"', where=where, hint=hint)
    return InputError(f"{key}: {first['msg']} (got {first['input']!r})", where=where, hint="give a value that fits")


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys of a section, found by walking the annotations."""
    for name in path:
        fields = {field.alias or key: field for key, field in model.model_fields.items()}
        candidates = [fields[name].annotation, *getattr(fields[name].annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or key for key, field in model.model_fields.items()]
