"""How a session starts in awkward places: long temporary folders, no home, wrong addresses, disks without locks."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import session
from cluster.locks import hold_lock, private_folder
from cluster.ray_internals import NodeRow, holds_sockets
from data.errors import InputError, ResumableError

ROOT = Path(__file__).resolve().parent.parent
TAKEN = "another is at work"
CONNECT = """
import os, sys
from pathlib import Path
import ray
from cluster.session import connect
with connect(address=None, log_dir=Path(sys.argv[1]), num_cpus=1) as session:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    print(ray.get(ray.remote(lambda: 7).remote()), oct(token.stat().st_mode & 0o777), token)
"""


def test_long_folders_hold_no_sockets(tmp_path: Path) -> None:
    assert holds_sockets("/tmp") and holds_sockets("/tmp/entail-1000")
    assert not holds_sockets("/tmp/" + "slurm_jobdir_1234567890/" * 4)


def test_a_long_temporary_folder_and_a_home_that_cannot_be_written_start_all_the_same(tmp_path: Path) -> None:
    """Case 24, and a container without a home."""
    long = tmp_path / "slurm_jobdir_1234567890" / "slurm_jobdir_1234567890" / "slurm_jobdir_1234567890"
    long.mkdir(parents=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long), "HOME": "/proc/nowhere"}
    env = {name: value for name, value in env.items() if not name.startswith(("RAY_AUTH", "RAY_TMPDIR"))}
    command = [sys.executable, "-c", CONNECT, str(tmp_path / "logs")]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer, mode, token = done.stdout.split()
    assert (answer, mode) == ("7", "0o600")
    assert Path(token).is_relative_to(long)


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "127.0.0.1:9", "no.such.host.invalid:6379", "nowhere", "127.0.0.1:port"]
)
def test_a_wrong_address_is_an_input_error(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised, session.connect(address=address, log_dir=tmp_path):
        pass
    assert raised.value.where == f"address {address}"


def test_no_route_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    monkeypatch.setattr(session.socket, "create_connection", refuse)
    with pytest.raises(InputError), session.connect(address="10.77.0.9:6379", log_dir=tmp_path):
        pass


def test_a_server_that_is_no_cluster_is_an_input_error_at_once(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(InputError, match="no Ray cluster"), session.connect(address=address, log_dir=tmp_path):
            pass
        server.shutdown()


def refuse_without_token(address: str) -> list[NodeRow]:
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise PermissionError("a token")
    return [NodeRow(address, alive=True, socket="/nowhere")]


@pytest.mark.parametrize(("has_token", "what"), [(True, "not a node of"), (False, "this user has none")])
def test_the_token_of_an_earlier_run_is_sent_where_the_cluster_asks_for_one(
    has_token: bool, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_token() -> bool:
        if has_token:
            monkeypatch.setenv("RAY_AUTH_MODE", "token")
        return has_token

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(session, "_reach", lambda address: "10.0.0.1")
    monkeypatch.setattr(session, "list_nodes", refuse_without_token)
    monkeypatch.setattr(session, "use_token", use_token)
    with pytest.raises(InputError, match=what), session.connect(address="10.0.0.1:6379", log_dir=tmp_path):
        pass


def test_a_cluster_gets_our_packages_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a large file in the checkout nor `.env` is shipped."""
    seen: dict[str, object] = {}

    def init(**options: object) -> None:
        seen.update(options)
        raise ConnectionError("enough")

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session, "_check_cluster", lambda address: "10.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    with pytest.raises(InputError), session.connect(address="10.0.0.1:6379", log_dir=tmp_path):
        pass
    shipped = seen["runtime_env"]
    assert isinstance(shipped, dict) and "working_dir" not in shipped
    assert {Path(path).name for path in shipped["py_modules"]} == {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    } - {"benchmarks", "models"}
    assert shipped["env_vars"]["GLOO_SOCKET_IFNAME"] == "eth7"


def test_a_folder_named_as_the_link_of_the_logs_stays(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    assert session._link_logs(tmp_path, tmp_path) == tmp_path
    assert not (tmp_path / "ray").is_symlink()


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", TAKEN) as is_locked:
        assert is_locked
        with pytest.raises(InputError, match="another is at work"), hold_lock(tmp_path / "lock", TAKEN):
            pass
    with hold_lock(tmp_path / "lock", TAKEN):
        pass


@pytest.mark.parametrize(("number", "is_error"), [(errno.ENOLCK, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_disk_without_locks_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    if is_error:
        with pytest.raises(InputError), hold_lock(tmp_path / "lock", TAKEN):
            pass
    else:
        with hold_lock(tmp_path / "lock", TAKEN) as is_locked:
            assert not is_locked


def test_a_folder_that_cannot_be_written_is_an_input_error() -> None:
    with pytest.raises(InputError), hold_lock(Path("/proc/nowhere/lock"), TAKEN):
        pass


def test_a_private_folder_is_private_and_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder(tmp_path, "a", "b")
    assert folder == tmp_path / "a" / "b" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for home in (None, Path("/proc/nowhere")):
        assert private_folder(home, "a").is_relative_to(tmp_path / "tmp")


def test_a_start_that_takes_too_long_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.") from TimeoutError("60 s")

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(ResumableError, match="did not start in time"), session.connect(address=None, log_dir=tmp_path):
        pass
