"""Machines of a cluster on this one: each has a network, host name, /etc/hosts, processes and folders of its own.

Linux, as root, with iproute2 and util-linux: network, mount, host name and process namespaces, joined by a bridge. All
machines see this machine's disk, apart from /tmp/ray, /dev/shm and HOME. Everything ends with the block.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("ip", "unshare", "nsenter", "mount")
PORT = 6379
START_SECONDS = 90.0  # for `ray start` on a busy machine
OBJECT_STORE_BYTES = 80_000_000
# A kernel gives a name to a container only if none has it: several sets of machines can be up at a time.
BRIDGE, SPACE, LINK = "entail{set}", "entail{set}-{number}", "en{set}x{number}"
ADDRESS = "10.{set}.0.{host}"
# What a user's shell would hand down, and nothing that this process's environment may hold about Ray.
INHERITED = ("PATH", "LANG", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PREPARE = """
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
touch {folder}/ready
exec sleep infinity
"""


def why_not() -> str:
    """Why machines cannot be made here; "" if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"network namespaces need {', '.join(missing)} (iproute2 and util-linux)"
    test = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return "" if test.returncode == 0 else f"namespaces are not allowed here: {test.stderr.decode().strip()}"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. Producer: `Machines`. `pid` is that of its first process; when it ends, all the others do."""

    number: int
    name: str
    address: str
    folder: Path
    pid: int


class Machines(ExitStack):
    """Machines 0 to `count` - 1 on one bridge; `folder` holds their HOME, logs and /etc/hosts.

    With `debian` each finds its own name at 127.0.1.1, as Debian sets it up; otherwise at its address.
    """

    def __init__(self, count: int, folder: Path, *, set_number: int = 77, debian: bool = True) -> None:
        super().__init__()
        self._folder, self._set, self._debian = folder, set_number, debian
        self.machines: dict[int, Machine] = {}
        self._bridge = BRIDGE.format(set=set_number)
        try:
            _do("ip", "link", "add", self._bridge, "type", "bridge")
            self.callback(_do, "ip", "link", "del", self._bridge)
            _do("ip", "addr", "add", f"{self._address(200)}/24", "dev", self._bridge)
            _do("ip", "link", "set", self._bridge, "up")
            for number in range(count):
                self.add(number)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def add(self, number: int) -> Machine:
        """A new machine of that number; one that was there before must be dead."""
        space, link = SPACE.format(set=self._set, number=number), LINK.format(set=self._set, number=number)
        folder = self._folder / f"machine-{number}"
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "ready").unlink(missing_ok=True)
        own = "127.0.1.1" if self._debian else self._address(number + 1)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{own} {space}\n")
        _do("ip", "netns", "add", space)
        self.callback(subprocess.run, ["ip", "netns", "del", space], capture_output=True)
        # The kernel removes the link of a dead machine some time after its last process.
        subprocess.run(["ip", "link", "del", link], capture_output=True)
        self.callback(subprocess.run, ["ip", "link", "del", link], capture_output=True)
        _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _do("ip", "link", "set", link, "master", self._bridge, "up")
        _do("ip", "-n", space, "addr", "add", f"{self._address(number + 1)}/24", "dev", "eth0")
        _do("ip", "-n", space, "link", "set", "eth0", "up")
        script = PREPARE.format(name=space, folder=folder)
        kinds = ("--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        parent = subprocess.Popen(["ip", "netns", "exec", space, "unshare", *kinds, "sh", "-ec", script])
        self.callback(_end, parent)
        _await(lambda: (folder / "ready").exists(), 20.0)
        pid = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
        machine = self.machines[number] = Machine(number, space, self._address(number + 1), folder, pid)
        return machine

    def lose(self, number: int) -> None:
        """Pull the machine's plug."""
        machine = self.machines.pop(number)
        os.kill(machine.pid, signal.SIGKILL)
        _await(lambda: not Path(f"/proc/{machine.pid}").exists(), 20.0)
        _do("ip", "netns", "del", machine.name)
        subprocess.run(["ip", "link", "del", LINK.format(set=self._set, number=number)], capture_output=True)

    def link(self, number: int, *, up: bool) -> None:
        """Connect or disconnect the machine's network."""
        _do("ip", "link", "set", LINK.format(set=self._set, number=number), "up" if up else "down")

    def start(self, number: int, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> int:
        """Start a process; returns its number as this machine sees it. See `popen` for its end."""
        return _child(self.popen(number, *command, env=env, **options))

    def popen(
        self, number: int, *command: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a process in the repository's folder; the handle is that of `nsenter`, which ends with it."""
        machine = self.machines[number]
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        inherited |= {"HOME": str(machine.folder / "home"), **(env or {})}
        enter = ["nsenter", "-t", str(machine.pid), "--net", "--uts", "--mount", "--pid", "--wdns=" + str(ROOT)]
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([*enter, *command], env=inherited, **options)

    def run(
        self, number: int, *command: str, env: Mapping[str, str] | None = None, timeout: float = 300.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a process to its end, at most `timeout` seconds; its output, both streams together."""
        process = self.popen(number, *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.kill(_child(process), signal.SIGKILL)
            output, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output.decode(errors="replace"), "")

    def ray_head(self, *options: str, cpus: int = 1, env: Mapping[str, str] | None = None) -> str:
        """Start Ray's head on machine 0; the cluster's address."""
        place = ("--head", "--port", str(PORT), "--include-dashboard=false")
        self._ray(0, *place, *options, cpus=cpus, env=env)
        return f"{self.machines[0].address}:{PORT}"

    def ray_node(self, number: int, *options: str, cpus: int = 1, env: Mapping[str, str] | None = None) -> None:
        """Start Ray on a machine, as a node of machine 0's cluster."""
        self._ray(number, "--address", f"{self._address(1)}:{PORT}", *options, cpus=cpus, env=env)

    def processes(self, number: int, beginning: str) -> list[int]:
        """The processes of a machine whose command begins so, oldest first."""
        space = Path(f"/proc/{self.machines[number].pid}/ns/pid").readlink()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (folder / "ns" / "pid").readlink() == space and command.startswith(beginning):
                    found.append(int(folder.name))
        return sorted(found)

    def kill(self, number: int, beginning: str, signal_number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to the processes of a machine whose command begins so; their numbers."""
        found = self.processes(number, beginning)
        for pid in found:
            os.kill(pid, signal_number)
        return found

    def _ray(self, number: int, *options: str, cpus: int, env: Mapping[str, str] | None) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        own = ["--node-ip-address", self.machines[number].address, "--num-cpus", str(cpus)]
        own += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--disable-usage-stats"]
        done = self.run(number, ray, "start", *own, *options, env=env, timeout=START_SECONDS)
        if done.returncode:
            raise RuntimeError(f"ray start on machine {number} failed:\n{done.stdout}")

    def _address(self, host: int) -> str:
        return ADDRESS.format(set=self._set, host=host)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # and with it, by --kill-child, all processes of the machine
    process.wait()


def _child(process: "subprocess.Popen[bytes]") -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _await(lambda: bool(children.read_text().split()), 10.0)
    return int(children.read_text().split()[0])


def _await(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no answer in {seconds:g} s")
        time.sleep(0.05)
