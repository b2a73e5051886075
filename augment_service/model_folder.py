"""What a model folder must be: its configuration and tokenizer, and whether an engine here can serve it.

Reads `config.json`, the tokenizer's files, the names of the weights' files, and the source of the installed vLLM. Code
that a folder brings along is never run.
"""

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import StrictDataclassError

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.window import fit_window, read_config
from data.errors import InputError
from data.weights import weight_files

# What transformers raises for a folder that it cannot read.
LOAD_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, StrictDataclassError
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_MAX_CHARACTERS = 240  # of what transformers says
_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


def check_model(spec: EngineSpec, *, on_cpu: bool) -> None:
    """Raise InputError if an engine of kind vllm cannot serve the folder `spec.model`, before anything starts.

    Reads no weights; whether the weights fit the configuration shows when they are loaded.
    """
    folder = Path(spec.model)
    if on_cpu and spec.pipeline_parallel > 1:
        hint = "use tensor_parallel, or a machine with GPUs"
        where = "engine setting pipeline_parallel"
        raise InputError("vLLM has no pipeline parallelism on CPUs", where=where, hint=hint)
    config = load_config(folder)
    weight_files(folder)
    load_tokenizer(folder)
    quantized = getattr(config, "quantization_config", None)
    if quantized and on_cpu:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        _refuse(folder, f"its weights are quantised ({method}), which no CPU here computes", "use the model in 16 bits")
    if not config.architectures:
        _refuse(folder, "config.json names no architecture", "save the model again with transformers")
    architecture = config.architectures[0]
    known = _served_architectures()
    if known and architecture not in known and not _runs_by_transformers(architecture):
        _refuse(folder, f"vLLM has no {architecture}", "use a causal language model that vLLM supports")
    fit_window(spec, on_cpu=on_cpu)


def load_config(folder: Path) -> Any:
    """The configuration as transformers reads it. Raises InputError."""
    has_code = bool(read_config(folder).get("auto_map"))
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        if has_code:
            what = "the model needs code of its own (auto_map in config.json), which is never run"
            hint = "use a model that transformers has a class for"
            raise InputError(what, where=str(folder), hint=hint) from error
        what = f"config.json describes no model: {_in_one_line(error)}"
        raise InputError(what, where=str(folder), hint="restore the file, or save the model again") from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers reads it. Raises InputError."""
    if not any((folder / name).is_file() for name in _VOCABULARIES):  # transformers would make one without words
        _refuse(folder, "there is no tokenizer here", f"save it beside the model ({_VOCABULARIES[0]})")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        what = f"the tokenizer cannot be read: {_in_one_line(error)}"
        raise InputError(what, where=str(folder), hint="copy or download the model again") from error


@lru_cache(maxsize=1)
def _served_architectures() -> frozenset[str]:
    """What the installed vLLM has classes for, empty if unknown; its source is read, since importing it takes long."""
    package = find_spec("vllm")
    source = Path(next(iter(package.submodule_search_locations or ()), "") if package else "")
    source /= "model_executor/models/registry.py"
    if not source.is_file():
        return frozenset()
    tables = (
        node.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) in _TABLES
    )
    return frozenset(str(ast.literal_eval(key)) for table in tables for key in table.keys if key is not None)


def _runs_by_transformers(architecture: str) -> bool:
    """Whether vLLM, without a class of its own, takes that of transformers."""
    import transformers

    found = getattr(transformers, architecture, None) if architecture.endswith(("ForCausalLM", "LMHeadModel")) else None
    return found is not None and (found.is_backend_compatible() or found._can_set_attn_implementation())


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_CHARACTERS] or type(error).__name__


def _refuse(folder: Path, what: str, hint: str) -> NoReturn:
    raise InputError(what, where=str(folder), hint=hint)
