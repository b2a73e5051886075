"""What a study survives: one fault at a time on a cluster of separate machines, and what it cost.

`python -m benchmarks.faults --json OUT [--only NAME ...]`: Linux, as root (see `benchmarks.machines`); elsewhere it
says so and does nothing. Each fault meets a study of its own on two fresh machines with a CPU each, the driver on the
first; a late stage is met by resuming a study that has finished the earlier ones. Where the command ends, it is run
again. Writes OUT, and the studies into a temporary folder. A fault takes one
to four minutes.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machines import Machines, why_not

RECIPE = """
study = "faults"
seed = 1
model = "models/tiny"
[engine]
kind = "{engine}"
[data.reversals]
worlds = 1
facts = 20
[augment]
samples = {samples}
[train]
steps = {steps}
batch_size = 16
checkpoint_every = 20
[train.arms]
finetuned = []
augmented = ["local", "global"]
[evaluate]
icl = ["all", "sample:2"]
repeats = {repeats}
"""
SIZES = {"samples": 16, "steps": 160, "repeats": 20}
PLACE_SECONDS = 20
# So that a lost node is noticed within ten seconds and not within a minute: the table says what comes on top.
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
LIMIT_SECONDS = 900.0  # for a command
HEAD = """| fault | stage | exit | seconds from there on | more than in peace | of these until Ray noticed | report |
|---|---|---|---|---|---|---|"""
# Of a report: what may differ between two runs of a study.
NOT_COMPARED = ("stages", "wall_seconds", "command", "recipe.cluster")
WATCH = """
import json, sys, time
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client, dead = GcsClient(address=sys.argv[1]), GcsNodeInfo.GcsNodeState.DEAD
while True:
    rows = client.get_all_node_info(timeout=5).values()
    print(json.dumps([time.time(), sum(row.state == dead for row in rows)]), flush=True)
    time.sleep(0.5)
"""


@dataclass
class Driver:
    """One start of the command: its process, as this machine numbers it, its output and its end."""

    pid: int
    process: "subprocess.Popen[bytes]"
    log: Path
    began: float

    @property
    def text(self) -> str:
        """The output so far."""
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """The exit code; the command is killed after its time, and 124 returned."""
        try:
            return self.process.wait(max(LIMIT_SECONDS - (time.time() - self.began), 1.0))
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()
            return 124


@dataclass
class Scene:
    """Machines with a cluster, and a study on it."""

    machines: Machines
    address: str
    folder: Path
    drivers: list[Driver] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The study's folder."""
        return self.folder / "study"

    def start(self) -> Driver:
        """Start the command on the first machine."""
        log = self.folder / f"driver-{len(self.drivers)}.log"
        words = ["run", str(self.folder / "recipe.toml"), "--address", self.address, "--out", str(self.out)]
        words += ["--place-seconds", str(PLACE_SECONDS)]
        began = time.time()
        with log.open("wb") as file:
            process = self.machines.popen(
                0, sys.executable, "-m", "pipeline", *words, stdout=file, stderr=subprocess.STDOUT
            )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.02)
        driver = Driver(int(found[0]), process, log, began)
        self.drivers.append(driver)
        return driver

    def reached(self, stage: str) -> bool:
        """Whether the driver is amid a stage."""
        driver = self.drivers[-1]
        if stage == "augment":
            return any(self.out.glob("augment/*/parts/**/*.arrow"))
        if stage == "base scores":
            return any(self.out.glob("scores/*/*"))
        if stage == "train":
            steps = [json.loads(path.read_text())["step"] for path in self.out.glob("train/.work/lanes/progress-*")]
            return any(step >= 60 for step in steps)
        return "train     " in driver.text and len([*self.out.glob("scores/*")]) > 1

    def kill_ray(self, number: int, name: str) -> None:
        """Kill processes of Ray's own on a machine: raylet, gcs_server."""
        for pid in self.machines.processes(number, ""):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            if command.endswith(name.encode()):
                os.kill(pid, signal.SIGKILL)


Act = Callable[[Scene], None]


def kill_engine(scene: Scene) -> None:
    """Kill -9 of the engine on the second machine."""
    assert scene.machines.kill(1, "ray::ActorHost") or scene.machines.kill(1, "ray::Host"), "no engine there"


def kill_rank(scene: Scene) -> None:
    """Kill -9 of the training rank on the second machine."""
    assert scene.machines.kill(1, "ray::RayTrainWorker"), "no rank there"


def kill_raylet(scene: Scene) -> None:
    """Kill -9 of Ray on the second machine, for good."""
    scene.kill_ray(1, "raylet")


def link_down_and_up(scene: Scene) -> None:
    """The second machine's link is down for 30 s; Ray there has been given up by then."""
    scene.machines.link(1, up=False)
    threading.Timer(30, lambda: scene.machines.link(1, up=True)).start()


def replace_node(scene: Scene) -> None:
    """The second machine loses its power; another joins at once."""
    scene.machines.lose(1)
    scene.machines.add(1)
    scene.machines.ray_node(1, env=QUICK_HEALTH_CHECKS)


def kill_driver(scene: Scene) -> None:
    """Kill -9 of the command."""
    os.kill(scene.drivers[-1].pid, signal.SIGKILL)


def kill_both(scene: Scene) -> None:
    """Kill -9 of Ray on the second machine and of the command, which is run again before Ray has noticed."""
    kill_raylet(scene)
    kill_driver(scene)


def terminate_driver(scene: Scene) -> None:
    """SIGTERM to the command, as Slurm and Kubernetes send it."""
    os.kill(scene.drivers[-1].pid, signal.SIGTERM)


def kill_gcs(scene: Scene) -> None:
    """Kill -9 of the head's GCS; the cluster is started anew for the rerun."""
    scene.kill_ray(0, "gcs_server")


def fill_disk(scene: Scene) -> None:
    """The study's disk is full; there is room again for the rerun."""
    filler = scene.out / ".filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 2**16)
                file.flush()
        except OSError:
            pass


@dataclass(frozen=True)
class Fault:
    """A fault and when it happens."""

    name: str
    stage: str
    act: Act


STAGES = ("augment", "base scores", "train", "checkpoint scores")
FAULTS = [
    *(Fault("engine killed", stage, kill_engine) for stage in STAGES if stage != "train"),
    Fault("rank killed", "train", kill_rank),
    *(Fault("node lost for good", stage, kill_raylet) for stage in STAGES),
    *(Fault("link down 30 s", stage, link_down_and_up) for stage in ("augment", "train")),
    Fault("node replaced", "train", replace_node),
    *(Fault("driver killed", stage, kill_driver) for stage in STAGES),
    Fault("node and driver killed", "train", kill_both),
    *(Fault("driver SIGTERM", stage, terminate_driver) for stage in ("augment", "train")),
    *(Fault("GCS killed", stage, kill_gcs) for stage in ("augment", "train")),
    *(Fault("disk full", stage, fill_disk) for stage in ("augment", "train")),
]


@dataclass
class Outcome:
    """What a fault cost. `exits` are those of the command and of its rerun; times in seconds.

    `seconds`, by stage, are those that the commands ran after the fault, or from where it would have been; `noticed`
    those until Ray declared a node dead, None if it did not. `different` are the report's leaves that differ from the
    calm run's; `lines` are what the user was told.
    """

    fault: str
    stage: str
    exits: list[int]
    seconds: dict[str, float]
    noticed: float | None
    lines: list[str]
    different: list[str] | None


def main() -> None:
    """Run the faults and write their outcomes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--only", nargs="*", default=[], help="FAULT/STAGE; all of them by default")
    engine = "fake: engines without a model, where only faults of the training are of interest (default: vllm)"
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help=engine)
    parser.add_argument("--keep", type=Path, help="a folder for the studies and logs (default: a temporary one)")
    flags = parser.parse_args()
    if reason := why_not():
        print(f"faults: skipped, {reason}")
        return
    by_name = {f"{fault.name}/{fault.stage}": fault for fault in FAULTS}
    chosen = [by_name[name] for name in flags.only] or FAULTS
    folder = flags.keep or Path(tempfile.mkdtemp(prefix="entail-faults-"))
    found: dict[str, Any] = json.loads(flags.json.read_text()) if flags.json.exists() else {}
    found |= {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs", "sizes": SIZES, "place_seconds": PLACE_SECONDS}
    found |= {"health_checks": QUICK_HEALTH_CHECKS, "engine": flags.engine}
    outcomes = {(one["fault"], one["stage"]): one for one in found.get("faults", [])}
    if "calm" not in found:
        calm, report = run(None, folder / "calm", flags.engine)
        found |= {"calm": asdict(calm), "report": report}
        flags.json.write_text(json.dumps(found, indent=1))
        print(HEAD, flush=True)
    for fault in chosen:
        place = folder / f"{fault.name}-{fault.stage}".replace(" ", "-")
        outcome, _ = run(fault, place, flags.engine, found["report"])
        outcomes[fault.name, fault.stage] = asdict(outcome)
        found["faults"] = list(outcomes.values())
        flags.json.write_text(json.dumps(found, indent=1))
        print(line_of(outcome, found["calm"]["seconds"]), flush=True)
    flags.json.write_text(json.dumps(found, indent=1))


def run(fault: Fault | None, folder: Path, engine: str, calm: Any = None) -> tuple[Outcome, Any]:
    """Meet one fault, or none; the outcome, and the report where the study was finished."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "study").mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(**SIZES, engine=engine))
    on_small_disk = fault is not None and fault.act is fill_disk
    if on_small_disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder / "study"], check=True)
    try:
        if fault is not None:
            _seed(folder.parent / "calm" / "study", folder / "study", fault.stage)
        with Machines(2, folder / "machines") as machines:
            address = _start_ray(machines)
            scene = Scene(machines, address, folder)
            watch = machines.popen(0, sys.executable, "-c", WATCH, address, stdout=(folder / "nodes").open("wb"))
            struck = _strike(scene, fault) if fault else _meet_stages(scene)
            exits = [scene.drivers[-1].wait()]
            watch.kill()
            if exits[0] and fault:
                exits.append(_rerun(scene, fault))
            noticed = _noticed(folder / "nodes", struck[fault.stage]) if fault else None
        path = scene.out / "report" / "report.json"
        report = json.loads(path.read_text()) if exits[-1] == 0 and path.exists() else None
        lines = [line for driver in scene.drivers for line in told(driver.text)]
        end = scene.drivers[0].log.stat().st_mtime
        again = sum(driver.log.stat().st_mtime - driver.began for driver in scene.drivers[1:])
        seconds = {stage: round(end - moment + again, 1) for stage, moment in struck.items()}
        different = None if report is None or calm is None else differences(calm, report)
        stage, name = (fault.stage, fault.name) if fault else ("", "calm")
        return Outcome(name, stage, exits, seconds, noticed, lines, different), report
    finally:
        if on_small_disk:
            subprocess.run(["umount", "-l", folder / "study"], check=False)


def _seed(calm: Path, study: Path, stage: str) -> None:
    """What the calm study had finished before the stage, so that the command resumes there."""
    if stage not in ("train", "checkpoint scores"):
        return
    # Of the scores, the base model's came first.
    first = min((path.stat().st_mtime, path.parent.name) for path in calm.glob("scores/*/*.arrow"))[1]
    parts = ["augment", "contexts", "data", f"scores/{first}"] + ["train"] * (stage != "train")
    for part in filter(lambda part: (calm / part).exists(), parts):
        shutil.copytree(calm / part, study / part, symlinks=True)


def _start_ray(machines: Machines) -> str:
    address = machines.ray_head(env=QUICK_HEALTH_CHECKS)
    machines.ray_node(1, env=QUICK_HEALTH_CHECKS)
    return address


def _strike(scene: Scene, fault: Fault) -> dict[str, float]:
    """Start the command, wait for the stage, let the fault happen; when it did, by the stage."""
    scene.start()
    struck = _await_stage(scene, fault.stage)
    fault.act(scene)
    return {fault.stage: struck}


def _meet_stages(scene: Scene) -> dict[str, float]:
    """Start the command; when faults would happen, by their stages."""
    scene.start()
    moments = {}
    for stage in STAGES:
        with suppress(_OverError):
            moments[stage] = _await_stage(scene, stage)
    return moments


class _OverError(Exception):
    """The stage was over before it was seen."""


def _await_stage(scene: Scene, stage: str) -> float:
    driver = scene.drivers[-1]
    while not scene.reached(stage):
        if driver.process.poll() is not None:
            raise _OverError(f"the command ended before {stage}:\n{driver.text[-2000:]}")
        time.sleep(0.1)
    return time.time()


def _rerun(scene: Scene, fault: Fault) -> int:
    """The same command again, after what an operator would do."""
    if fault.act is fill_disk:
        (scene.out / ".filler").unlink()
    if fault.act is kill_gcs:
        ray = str(Path(sys.executable).with_name("ray"))
        for number in (0, 1):
            scene.machines.run(number, ray, "stop", "--force")
        _start_ray(scene.machines)
    return scene.start().wait()


def _noticed(watched: Path, struck: float) -> float | None:
    rows = [json.loads(line) for line in watched.read_text().splitlines()]
    return next((round(moment - struck, 1) for moment, dead in rows if dead and moment >= struck), None)


def told(text: str) -> list[str]:
    """The lines of an output that speak of the fault: of places, problems, errors; foreign ones are counted."""
    marks = ("placement", "entail: ", "failed", "  re-run", "  where", "  hint", "  restarts")
    ours = [line for line in text.splitlines() if line.startswith(marks) or "restart" in line or "actor" in line]
    traces = sum("*** SIG" in line or line.startswith(("Traceback", "(raylet", "[20")) for line in text.splitlines())
    return ours + [f"{traces} lines of stack traces or of Ray's own logs"] * (traces > 0)


def differences(one: Any, other: Any) -> list[str]:
    """The leaves of two reports that differ."""
    left, right = dict(leaves(one)), dict(leaves(other))
    return sorted(name for name in left.keys() | right.keys() if left.get(name, ...) != right.get(name, ...))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a report by their paths, without `NOT_COMPARED`."""
    if name in NOT_COMPARED:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{number}")
    else:
        yield name, value


def line_of(outcome: Outcome, calm: Mapping[str, float]) -> str:
    """A line of the table; `calm` are the calm run's seconds from each stage on."""
    different, seconds = outcome.different, outcome.seconds[outcome.stage]
    same = "-" if different is None else "equal" if not different else f"{len(different)} leaves differ"
    exits = ", then ".join(map(str, outcome.exits))
    noticed = "-" if outcome.noticed is None else f"{outcome.noticed:.0f}"
    cost = f"{seconds - calm[outcome.stage]:+.0f}"
    return f"| {outcome.fault} | {outcome.stage} | {exits} | {seconds:.0f} | {cost} | {noticed} | {same} |"


if __name__ == "__main__":
    main()
