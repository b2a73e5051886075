"""Models by name: a folder, a model of the Hugging Face hub, or what an endpoint calls its model.

Reads `config.json`, tokenizer and weights. A hub model is downloaded (safetensors, no code) into the hub's own cache.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from augment_service.engines.protocol import EngineSpec
from cluster.memory import gpu_bytes
from data.errors import InputError
from data.rendering import ENGLISH_CHAT, PromptBook, load_book
from data.seeds import fingerprint
from data.weights import model_fingerprint
from pipeline.sections import Engine

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_WEIGHTS = ["*.json", "*.txt", "*.model", "*.jinja"]
_WHERE = "recipe key model, flag --model"


@dataclass(frozen=True)
class Model:
    """A base model. `name` is as it was given, `path` the local folder or the endpoint's name for it.

    `fingerprint` names what decides its answers: weights, config, tokenizer and chat template.
    """

    name: str
    path: str
    fingerprint: str
    book: PromptBook

    @property
    def folder(self) -> Path | None:
        """The model's folder, if there is one."""
        return Path(self.path) if (Path(self.path) / "config.json").exists() else None


def find_model(name: str, engine: Engine | None, prompts: str = "", *, address: str | None = None) -> Model:
    """Resolve a model before anything starts; `engine` None is for training, `address` that of the cluster if attached.

    Raises InputError, as `served_folder`.
    """
    file = Path(prompts) if prompts else None
    if engine and engine.kind == "endpoint" and not engine.service:
        if engine.endpoint_api == "chat":
            file = file or ENGLISH_CHAT
        return Model(name, name, fingerprint("endpoint", engine.endpoint_api, engine.url, name), load_book(None, file))
    try:
        path = served_folder(name, engine, address) if engine else local_model(name)
    except InputError:
        if engine is None or engine.kind != "fake":
            raise
        return Model(name, name, fingerprint("fake", name), load_book(None, file))
    return Model(name, path, model_fingerprint(Path(path)), load_book(Path(path), file))


def plan_model(name: str, engine: Engine | None = None, prompts: str = "", *, identified: bool = False) -> Model:
    """A model of which only config and tokenizer are read; `identified`, it has a fingerprint if its weights are here.

    The fingerprint is needed to find out what the model has answered before.
    """
    if engine and engine.kind != "vllm" and not engine.service:
        return find_model(name, engine, prompts)
    path = local_model(name, weights=False)
    folder = Path(path)
    is_whole = identified and any(folder.glob("*.safetensors"))
    book = load_book(folder, Path(prompts) if prompts else None)
    return Model(name, path, model_fingerprint(folder) if is_whole else "", book)


def served_folder(name: str, engine: Engine, address: str | None = None) -> str:
    """As `local_model`; a folder that a vLLM engine of this section cannot serve is an InputError, too."""
    path = local_model(name)
    if engine.kind == "vllm":
        from augment_service.model_folder import check_model

        check_model(engine_spec(engine, path, seed=0), on_cpu=not address and gpu_bytes() is None)
    return path


def engine_spec(engine: Engine, model: str, seed: int) -> EngineSpec:
    """The section [engine] for one model; settings that were not given have the engine's own defaults."""
    names = {field.name for field in fields(EngineSpec)} - {"model", "seed"}
    given = {name: getattr(engine, name) for name in names if name in type(engine).model_fields}
    return EngineSpec(model=model, seed=seed, **{name: value for name, value in given.items() if value is not None})


def local_model(name: str, *, weights: bool = True) -> str:
    """The absolute path of a model folder; a hub model is downloaded, without `weights` only its small files.

    A relative path is looked up in the working directory and in the project's folder. Raises InputError.
    """
    for candidate in (Path(name).expanduser(), ROOT / name):
        if (candidate / "config.json").exists():
            return str(candidate.resolve())
    if not name or name.startswith((".", "/", "~", "models/")) or name.count("/") > 1 or Path(name).exists():
        raise InputError(
            f'model not found: "{name}" (no folder with a config.json)',
            where=_WHERE,
            hint="pass a model folder or a hub name; `python -m pipeline pretrain` makes models/tiny",
        )
    return _download(name, WITHOUT_WEIGHTS + ["*.safetensors"] * weights)


def _download(name: str, patterns: list[str]) -> str:
    with _progress_bars():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return snapshot_download(name, allow_patterns=patterns, ignore_patterns=["consolidated*", "original/*"])
        except GatedRepoError as error:
            hint = f"accept the licence at huggingface.co/{name}, then log in: hf auth login"
            raise InputError(f'access to "{name}" is restricted', where=_WHERE, hint=hint) from error
        except HFValidationError as error:
            hint = "pass a model folder, or a hub name such as org/model"
            raise InputError(f'model not found: "{name}"', where=_WHERE, hint=hint) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f'model not found: "{name}" is not a local folder, and the hub answered {type(error).__name__}',
                where=_WHERE,
                hint="check the name and the network, log in (hf auth login), or pass a folder",
            ) from error


@contextmanager
def _progress_bars() -> Iterator[None]:
    """A download shows its own progress; elsewhere the libraries' bars are off."""
    before = os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = before
