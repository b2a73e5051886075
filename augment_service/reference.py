"""What a model's weights give for a fixed text in fp32, by transformers on the CPU: engines are compared with it.

A reference belongs to the weights, not to an engine. `train` writes `reference.json` beside each checkpoint; for other
models it is computed once and cached in `$XDG_CACHE_HOME/entail/references` or `~/.cache/entail/references`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, PreTrainedModel

from augment_service.model_folder import LOAD_ERRORS, load_tokenizer
from cluster.locks import private_folder
from data.cache import cache_folder
from data.errors import InputError
from data.seeds import fingerprint
from data.store import write_text
from data.weights import model_fingerprint, weights_fingerprint

FILE = "reference.json"
VERSION = 1  # of the texts and the computation
FP32_LIMIT = 1e-3  # nats
MARGIN = 3.0  # SmolLM2-135M in bf16: vLLM's mean is 1.2 times, its maximum 1.4 times that of plain transformers
NUM_PREFIX, NUM_SCORED = 40, 24  # tokens; the prefix is longer than a cache block, so that the cache is compared, too
PASSAGES = (
    "The harbour was built in 1852, when the town had fewer than 900 people. Ships brought timber and salt from the "
    "north and took wool, butter and dried fish in return. After two fires and a flood the quay was rebuilt in stone, "
    "and a railway line was laid from the station to the pier, so that goods could be moved without horses. Today most "
    "of the old warehouses are flats, and the only ships left are the ferries that leave for the islands twice a day.",
    'def mean(values: list[float]) -> float:\n    """The arithmetic mean; raises ValueError for an empty list."""\n'
    '    if not values:\n        raise ValueError("no values")\n    return sum(values) / len(values)\n\n\n'
    "print(mean([3.0, 4.0, 8.0]))  # 5.0\nprint(mean([0.25, 0.5]))  # 0.375\n\n"
    "Die Summe ist 15, und es sind drei Werte. La moyenne est donc de 5 ; la médiane, elle, vaut 4.",
)


@dataclass(frozen=True)
class Difference:
    """How far log-probabilities are from those of fp32 on the same text (nats per token)."""

    mean: float
    max: float

    def within(self, limit: "Difference") -> bool:
        """Whether both are within a limit; a NaN is not."""
        return self.mean <= limit.mean and self.max <= limit.max

    def __str__(self) -> str:
        return f"{self.mean:.2g} nats per token on average, {self.max:.2g} at most"


@dataclass(frozen=True)
class Reference:
    """Rows of token ids, all of one length, and the log-probability (nats) in fp32 of each token but a row's first.

    Rows 2i and 2i + 1 share their first `NUM_PREFIX` tokens. `roundings` say how far plain transformers in a 16-bit
    type is from these values, by the type, as far as computed.
    """

    rows: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]
    roundings: dict[str, Difference]

    def limit(self, dtype: torch.dtype) -> Difference:
        """How far an engine of this type may be: `FP32_LIMIT`, or a multiple of what plain transformers is."""
        if dtype == torch.float32:
            return Difference(FP32_LIMIT, FP32_LIMIT)
        rounding = self.roundings[_name(dtype)]
        return Difference(*(max(FP32_LIMIT, MARGIN * value) for value in (rounding.mean, rounding.max)))


def find_reference(folder: Path, dtype: torch.dtype, adapter: Path | None = None, *, fresh: bool = False) -> Reference:
    """The reference of the weights in `folder` with the rounding of `dtype`: stored beside them, cached, or computed.

    `fresh` computes it in any case. Raises InputError for weights that transformers cannot load.
    """
    name = _name(dtype)
    if adapter is None and not fresh and (found := _read(folder / FILE, name)):
        return found
    added = (weights_fingerprint(adapter), (adapter / "adapter_config.json").read_text()) if adapter else ()
    base = cache_folder() or private_folder(None)  # a file in the shared temporary folder could be another user's
    path = base / "references" / f"{fingerprint(VERSION, model_fingerprint(folder), *added)}.json"
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # without a lock, engines that start together each compute it
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        found = None if fresh else _read(path, name)
        if found is None:
            found = compute_reference(folder, (name,), adapter)
            with suppress(OSError):  # a full disk costs the cache, not the run
                write_reference(path, found)
    return found


def compute_reference(
    folder: Path,
    dtypes: Sequence[str] = ("bfloat16",),
    adapter: Path | None = None,
    rows: Sequence[Sequence[int]] | None = None,
) -> Reference:
    """The reference of the weights in `folder`; `rows` are those of the model that they were trained from, if any.

    Memory: the weights as they are stored, and one layer in fp32.
    """
    model = _load(folder, adapter)
    rows = rows or probe_rows(model, load_tokenizer(folder))
    ids = torch.tensor(rows)
    with _in_fp32(model):
        exact = _log_probabilities(model, ids)
    roundings = {}
    for name in dtypes:
        if name != "float32":
            for parameter in model.parameters():  # buffers stay in fp32, as they do when transformers loads 16 bits
                parameter.data = parameter.data.to(getattr(torch, name))
            difference = (_log_probabilities(model, ids) - exact).abs()
            roundings[name] = Difference(difference.mean().item(), difference.max().item())
    return Reference(tuple(map(tuple, rows)), tuple(map(tuple, exact.tolist())), roundings)


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference; whole or not at all."""
    write_text(path, json.dumps({"version": VERSION, **asdict(reference)}))


def probe_rows(model: PreTrainedModel, tokenizer: Any) -> list[list[int]]:
    """Two rows for each passage: one prefix and two continuations.

    Where the vocabulary lacks the words (a model of its own small language), the model writes the text.
    """
    num_ids = model.config.get_text_config().vocab_size
    special = set(tokenizer.all_special_ids)
    length, rows = NUM_PREFIX + NUM_SCORED, []
    for seed, passage in enumerate(PASSAGES):
        read = tokenizer(passage).input_ids
        ids = [token for token in read if token != tokenizer.unk_token_id and token < num_ids]
        while ids and ids[-1] in special:  # an end that the tokenizer adds
            ids.pop()
        if len(ids) < length + NUM_SCORED:
            ids = _write(model, ids[:1] or [0], length + NUM_SCORED, seed)
        rows += [ids[:length], ids[:NUM_PREFIX] + ids[length : length + NUM_SCORED]]
    return rows


def _write(model: PreTrainedModel, ids: list[int], length: int, seed: int) -> list[int]:
    """Sample from the model until there are `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        while len(ids) < length:
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            ids = [*ids, int(torch.multinomial(logits.softmax(-1), 1, generator=generator))]
    return ids


def difference(reference: Reference, values: Sequence[Sequence[float]], start: int) -> Difference:
    """Of an engine's values for the tokens of each row from `start` on."""
    wanted = torch.tensor([row[start - 1 :][: len(values[0])] for row in reference.values], dtype=torch.float64)
    distance = (torch.tensor(values, dtype=torch.float64) - wanted).abs()
    return Difference(distance.mean().item(), distance.max().item())


def likely_causes(folder: Path) -> str:
    """What in a model's configuration engines are known to compute otherwise, as a hint."""
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text())
        config |= config.get("text_config") or {}
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        kind = rope.get("rope_type") or rope.get("type") or "default"
        found = ["quantised weights"] * bool(config.get("quantization_config"))
        found += [f"rope scaling ({kind})"] * (kind != "default")
        found += ["soft capping"] * any(bool(config.get(f"{name}_logit_softcapping")) for name in ("attn", "final"))
        found += ["sliding windows"] * bool(config.get("sliding_window") and config.get("use_sliding_window", True))
        if found:
            return f"config.json has {', '.join(found)}: this vLLM may compute that otherwise; try another version"
    return "check that the weights, config.json and the tokenizer belong together; try dtype float32"


def _load(folder: Path, adapter: Path | None) -> PreTrainedModel:
    try:
        # the default attention of transformers leaves out what only some models have, such as soft capping
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", attn_implementation="eager", local_files_only=True, trust_remote_code=False
        )
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    except LOAD_ERRORS as error:
        what = str(error).strip().partition("\n")[0]
        where = folder if adapter is None else adapter
        hint = "save it again with transformers, without quantisation and without code of its own"
        raise InputError(f"transformers cannot load this: {what}", where=str(where), hint=hint) from error
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise InputError(
            "some of these weights are not finite (NaN or infinite)",
            where=str(adapter or folder),
            hint="train again with a lower learning rate, or copy the weights again",
        )
    return model.eval()


def _log_probabilities(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Shape (rows, tokens - 1), fp32: of each token given those before it."""
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


@contextmanager
def _in_fp32(model: PreTrainedModel) -> Iterator[None]:
    """Compute in fp32 with weights of 16 bits: each module's own parameters are converted while it runs."""
    handles = []
    for module in model.modules():
        stored = {parameter: parameter.dtype for parameter in module.parameters(recurse=False)}
        if any(dtype != torch.float32 for dtype in stored.values()):
            handles.append(module.register_forward_pre_hook(_convert(dict.fromkeys(stored, torch.float32))))
            handles.append(module.register_forward_hook(_convert(stored)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _convert(dtypes: dict[torch.nn.Parameter, torch.dtype]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        for parameter, dtype in dtypes.items():
            parameter.data = parameter.data.to(dtype)

    return hook


def _read(path: Path, dtype: str) -> Reference | None:
    """The reference in a file; None if there is none, it is damaged, of another version, or lacks the rounding."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        content = json.loads(path.read_text())
        roundings = {name: Difference(**entry) for name, entry in content["roundings"].items()}
        rows, values = (tuple(map(tuple, content[name])) for name in ("rows", "values"))
        if content["version"] == VERSION and (dtype == "float32" or dtype in roundings):
            return Reference(rows, values, roundings)
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
