"""The environment check: installed packages, this machine, and the packages that our names resolve to.

Reads the metadata of installed packages and `pyproject.toml`; imports nothing heavy, so it takes under a second.
Writes a table to the console.
"""

import importlib.util
import os
import platform
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from cluster.install import ROOT, UNWANTED, ask_driver
from data.errors import InputError

MODEL = "models/tiny"
OURS = ("augment_service", "cluster", "data", "evaluate", "pipeline", "train")


def check_environment(console: Console) -> None:
    """Print what is installed and what the machine has. Raises InputError with every problem found."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_row("machine", describe_machine())
    table.add_row("python", f"{platform.python_version()}  {sys.prefix}")
    found = [(requirement, find_version(requirement.name)) for requirement in wanted_packages()]
    shown = (f"{requirement.name} {installed or '-'}" for requirement, installed in found)
    table.add_row("packages", "  ".join(shown))
    has_model = (ROOT / MODEL / "config.json").exists()
    table.add_row("model", MODEL if has_model else "-")
    console.print(table, highlight=False)
    problems = [*find_misfits(found), *find_shadows(), *find_unwanted()]
    if not has_model:
        problems.append(
            ("the embedded model is missing", "restore models/tiny, or make it: python -m pipeline pretrain")
        )
    if problems:
        what = "; ".join(problem for problem, _ in problems)
        fixes = dict.fromkeys(hint for _, hint in problems)
        raise InputError(what, where=sys.prefix, hint="; ".join(fixes))


def describe_machine() -> str:
    """CPUs that this process may use, memory and GPUs, in one line."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = "; ".join(ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader")) or "no GPU"
    return f"{platform.system()} {platform.machine()}, {cpus} CPUs, {memory:.0f} GiB, {gpus}"


def wanted_packages() -> list[Requirement]:
    """The requirements of `pyproject.toml`: the core, and the extra of the installed build of vLLM."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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
            yield f"{name} {installed or 'is missing'} (wanted {requirement.specifier})", f"pip install '{requirement}'"


def find_shadows() -> Iterator[tuple[str, str]]:
    """Our top-level names that resolve to a foreign package, e.g. Hugging Face's `evaluate`."""
    for name in OURS:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent != ROOT / name:
            yield f"`import {name}` finds {origin or 'nothing'}", f"run from {ROOT}, and pip uninstall {name}"
        elif find_version(name):
            yield f"a distribution named {name} is installed and may shadow ours", f"pip uninstall {name}"


def find_unwanted() -> Iterator[tuple[str, str]]:
    """Packages that break `import transformers` beside a CPU build of torch; a CUDA build of vLLM needs them."""
    if find_version("vllm"):
        return
    for name in UNWANTED:
        if find_version(name):
            yield f"{name} is installed and breaks transformers", f"pip uninstall {name}"
