"""The key of a run: a hash of everything that decides its result, and of nothing else.

Reads: the base model's weights, configuration and tokenizer, and the run's texts. Writes nothing.
"""

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

from data.seeds import fingerprint
from data.weights import weights_fingerprint
from train.run.finetune_run import FinetuneRun
from train.texts.conversations import conversations_key
from train.texts.encode import load_encoder
from train.texts.sources import TextSource, content_of, has_turns

# Decides rounding alone: any of these may change between two starts of a run.
ROUNDING = ("precision", "stage", "accumulation", "activation_checkpointing", "offload", "layout")
_WITHOUT_EFFECT = (
    "name",
    "offload_folder",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_last",
    "keep_every",
    "export_every",
    "resume",
    "trackers",
)
_PATHS = ("base", "sources", "matched_to", "out", "tokens", "instruct_twin")
_NOTES = ("_name_or_path", "transformers_version")  # of config.json, without effect


def key_of(run: FinetuneRun) -> str:
    """The run's key. Its texts must be written; what has been hashed once is cached. Raises InputError if not."""
    twin = (base_fingerprint(run.instruct_twin),) if run.instruct_twin else ()
    return run_key(run, base_fingerprint(run.base), load_encoder(run.base).fingerprint, *twin)


def run_key(run: FinetuneRun, base_fingerprint: str, tokenizer_fingerprint: str, *twin: str) -> str:
    """The key from settings, base model, tokenizer, and the content and weights of the texts; paths do not matter."""
    left_out = {*_PATHS, *_WITHOUT_EFFECT, *ROUNDING}
    if run.batch_tokens:
        left_out.add("batch_size")
    if not run.min_steps:
        left_out.add("min_steps")
    settings = sorted((name, value) for name, value in dataclasses.asdict(run).items() if name not in left_out)
    texts, reference = ([_drawn(source, run.base) for source in sources] for sources in (run.sources, run.matched_to))
    return fingerprint(settings, base_fingerprint, tokenizer_fingerprint, texts, reference, *twin)


def _drawn(source: TextSource, base: str) -> tuple[object, ...]:
    """The content of a source, how often its texts occur, and what decides the rows of turns."""
    form = (conversations_key(load_encoder(base).tokenizer),) if has_turns(source) else ()
    return (content_of(source), source.weight, *[source.share] * bool(source.share), *form)


def base_fingerprint(folder: str) -> str:
    """A hash of a model folder's weights and configuration."""
    load_encoder(folder)  # refuses a folder without a model
    files = (Path(folder) / "config.json", *sorted(Path(folder).glob("*.safetensors")))
    return _base_fingerprint(folder, tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=8)
def _base_fingerprint(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    config = json.loads((Path(folder) / "config.json").read_text())
    content = {name: value for name, value in config.items() if name not in _NOTES}
    return fingerprint(weights_fingerprint(Path(folder)), json.dumps(content, sort_keys=True))
