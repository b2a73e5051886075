"""Commands as Ray jobs: what is sent, and a real job server on loopback that runs, refuses and stops them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.cache import cache_folder
from data.errors import InputError
from pipeline import ray_jobs
from pipeline.cli import main

# What ray[default] has besides: not in our environment, for with these every local Ray starts a larger agent.
SERVER = (
    "aiohttp_cors==0.8.1 colorful==0.5.8 distlib==0.4.4 google-api-core==2.44.0 google-auth==2.63.0 "
    "googleapis-common-protos==1.76.0 opencensus==0.11.4 opencensus_context==0.1.3 "
    "opentelemetry-exporter-prometheus==0.66b2 platformdirs==4.14.8 proto-plus==1.29.0 pyasn1==0.6.5 "
    "pyasn1_modules==0.4.2 python_discovery==1.9.6 six==1.17.0 smart_open==9.0.2 virtualenv==21.15.11 wrapt==2.5.2"
).split()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def packages() -> Path:
    cache = cache_folder()
    assert cache is not None
    folder = cache / "ray-default"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=cache))
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps"]
        if subprocess.run([*pip, "--target", str(work), *SERVER], check=False).returncode:
            shutil.rmtree(work)
            pytest.skip("the packages of Ray's job server cannot be had here")
        work.rename(folder)
    return folder


@pytest.fixture(scope="module")
def server(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head's job server, and its token in the environment."""
    folder, temporary = tmp_path_factory.mktemp("head"), Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(packages)!r})\n")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 2)
    token.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}.items():
            patch.setenv(name, value)
        ports = [str(free_port()) for _ in range(2)]
        words = ["start", "--head", "--node-ip-address", "127.0.0.1", "--port", ports[0], "--num-cpus", "2"]
        words += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", ports[1]]
        ray = str(Path(sys.executable).with_name("ray"))
        environment = {**os.environ, "PYTHONPATH": str(folder), "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        try:
            subprocess.run([ray, *words, "--temp-dir", str(temporary)], env=environment, check=True, timeout=180)
            yield f"http://127.0.0.1:{ports[1]}"
        finally:
            for process in psutil.process_iter(["cmdline"]):
                if any(str(temporary) in word for word in process.info["cmdline"] or ()):
                    process.kill()
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--", "run", "a.toml", "--out", "/x"], ["run", "a.toml", "--out", "/x", "--address", "auto"]),
        (["doctor", "--address", "h:1"], ["doctor", "--address", "h:1"]),
        (["demo", "--cluster.address=h:1"], ["demo", "--cluster.address=h:1"]),
        (["data", "make", "process", "--out", "/x"], ["data", "make", "process", "--out", "/x"]),
    ],
)  # fmt: skip
def test_a_command_is_attached_to_the_cluster_that_runs_it(words: list[str], sent: list[str]) -> None:
    assert ray_jobs._checked(words) == sent


@pytest.mark.parametrize("words", [[], ["--"], ["ls"], ["submit", "--", "run"], ["run", "a.toml", "--no-such-flag"]])
def test_what_is_no_command_is_not_sent(words: list[str]) -> None:
    with pytest.raises(InputError):
        ray_jobs._checked(words)


def test_files_are_shipped_by_name(tmp_path: Path) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text("study = 'x'")
    for folder in ("whole", "none", "twice"):
        (tmp_path / folder).mkdir()
    ray_jobs._fill(tmp_path / "whole", [recipe])
    assert (tmp_path / "whole" / "my.toml").exists() and (tmp_path / "whole" / "cluster" / "session.py").exists()
    with pytest.raises(InputError, match="no such file"):
        ray_jobs._fill(tmp_path / "none", [tmp_path / "other.toml"])
    with pytest.raises(InputError, match="two files of one name"):
        ray_jobs._fill(tmp_path / "twice", [recipe, recipe])


def test_without_a_server_it_says_how_to_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list", "--dashboard", f"http://127.0.0.1:{free_port()}"]) == 2
    error = capsys.readouterr().err
    assert "no job server answers" in error and "ray[default]" in error and "Traceback" not in error


def entail(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: Ray keeps the token that a process first had."""
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, text=True, capture_output=True, env={**os.environ, **environment}, timeout=300)


@pytest.mark.timeout(600)
def test_a_job_runs_on_the_cluster_and_its_end_is_ours(server: str, tmp_path: Path) -> None:
    submit = ["submit", "--dashboard", server, "--python", sys.executable, "--follow"]
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"text": "Vaff are gled."}\n{"text": "Gled are hoosk."}\n')
    words = ["augment", "--documents", "documents.jsonl", "--model", "models/tiny", "--engine", "fake"]
    out = tmp_path / "out"
    done = entail(*submit, "--name", "mine", "--ship", str(documents), "--", *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "augment" in done.stdout and (out / "augmentations").exists() and "INFO" not in done.stderr
    assert "succeeded" in entail("jobs", "list", "--dashboard", server).stdout
    words = ["augment", "--documents", "/nowhere", "--model", "models/tiny", "--out", str(out)]
    done = entail(*submit, "--", *words)
    assert done.returncode == 2 and "/nowhere" in done.stdout and "ended with exit code 2" in done.stderr
    for action in ("status", "logs", "stop"):
        done = entail("jobs", action, "no-such-job", "--dashboard", server)
        assert done.returncode == 2 and "does not exist" in done.stderr and "Traceback" not in done.stderr
    assert entail("jobs", "stop", "mine", "--dashboard", server).returncode == 2


def test_another_token_is_one_message(server: str) -> None:
    done = entail("jobs", "list", "--dashboard", server, RAY_AUTH_TOKEN="f" * 32)
    assert done.returncode == 2 and "wants another token" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.timeout(600)
def test_a_job_is_stopped_by_sigterm(server: str, tmp_path: Path) -> None:
    words = ["demo", "--out", str(tmp_path / "demo"), "--engine.kind", "fake"]
    done = entail("submit", "--dashboard", server, "--python", sys.executable, "--name", "long", "--", *words)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 120
    while not (tmp_path / "demo" / "logs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert entail("jobs", "stop", "long", "--dashboard", server).returncode == 0
    assert "SIGTERM" in entail("jobs", "logs", "long", "--dashboard", server).stdout
    assert "stopped" in entail("jobs", "status", "long", "--dashboard", server).stdout
