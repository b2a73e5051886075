"""The environment check: installed packages, this machine, and the packages that our names resolve to.

Reads the metadata of installed packages and `pyproject.toml`; imports nothing heavy, so it takes under a second.
Writes a table to the console.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from data.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "models" / "tiny"
OURS = ("augment_service", "cluster", "data", "evaluate", "pipeline", "train")
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
GIB = 2**30


def check_environment(console: Console) -> None:
    """Print what is installed and what the machine has. Raises InputError with every problem found."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_row("machine", describe_machine())
    table.add_row("python", f"{platform.python_version()}  {sys.prefix}")
    found = [(requirement, find_version(requirement.name)) for requirement in wanted_packages()]
    shown = (f"{requirement.name} {installed or '-'}" for requirement, installed in found)
    table.add_row("packages", "  ".join(shown))
    table.add_row("model", str(MODEL.relative_to(REPOSITORY)) if (MODEL / "config.json").exists() else "-")
    console.print(table, highlight=False)
    problems = [*find_misfits(found), *find_shadows(), *find_unwanted(), *find_missing_model()]
    if problems:
        what = "; ".join(problem for problem, _ in problems)
        fixes = dict.fromkeys(hint for _, hint in problems)
        raise InputError(what, where=sys.prefix, hint="; ".join(fixes))


def describe_machine() -> str:
    """CPUs that this process may use, memory and GPUs, in one line."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{platform.system()} {platform.machine()}, {cpus} CPUs, {memory:.0f} GiB, {describe_gpus()}"


def describe_gpus() -> str:
    """The GPUs that `nvidia-smi` names."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return "; ".join(names) if answer.returncode == 0 and names else "no GPU"


def wanted_packages() -> list[Requirement]:
    """The requirements of `pyproject.toml`: the core, and the extra of the installed build of vLLM."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = "cuda" if find_version("vllm") else "cpu"
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"][extra]]]


def find_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_misfits(found: Sequence[tuple[Requirement, str | None]]) -> Iterator[tuple[str, str]]:
    """Packages that are missing or of a wrong version, each with its fix."""
    for requirement, installed in found:
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            name = requirement.name
            yield f"{name} {installed or 'is missing'} (wanted {requirement.specifier})", _fix(requirement)


def find_shadows() -> Iterator[tuple[str, str]]:
    """Our top-level names that resolve to a foreign package, e.g. Hugging Face's `evaluate`."""
    for name in OURS:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent != REPOSITORY / name:
            yield f"`import {name}` finds {origin or 'nothing'}", f"run from {REPOSITORY}, and pip uninstall {name}"
        elif find_version(name):
            yield f"a distribution named {name} is installed and may shadow ours", f"pip uninstall {name}"


def find_unwanted() -> Iterator[tuple[str, str]]:
    """Packages that break `import transformers` beside a CPU build of torch; a CUDA build of vLLM needs them."""
    if find_version("vllm"):
        return
    for name in UNWANTED:
        if find_version(name):
            yield f"{name} is installed and breaks transformers", f"pip uninstall {name}"


def find_missing_model() -> Iterator[tuple[str, str]]:
    """The embedded model, if it is missing."""
    if not (MODEL / "config.json").exists():
        yield "the embedded model is missing", "restore models/tiny, or make it: python -m pipeline pretrain"


def _fix(requirement: Requirement) -> str:
    return f"pip install '{requirement}'"
