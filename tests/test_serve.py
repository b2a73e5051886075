"""A service from `up` to `down`: with the fake engine what befalls processes and files, with vLLM the real work."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from openai import OpenAI
from safetensors.torch import load_file, save_file

from augment_service.engines.endpoint.engine import EndpointEngine
from augment_service.engines.protocol import EngineSpec
from cluster.pool import ActorPool
from cluster.session import connect
from data.errors import InputError
from data.records import Score, ScoreItem
from data.weights import weights_fingerprint
from pipeline.sections import Engine
from pipeline.serve import state as service
from pipeline.serve.state import Process, ServiceState, descendants, find_service, forget, read_state
from pipeline.stages.resources import check_service

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(900)  # each starts Ray, some several times
MODEL = "models/tiny"
WAIT_SECONDS = 240.0
FAKE = ("--model", MODEL, "--engine", "fake", "--engines", "2")


def entail(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def found(name: str) -> ServiceState:
    state = find_service(name)
    assert state is not None
    return state


def engines_of(state: ServiceState) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key_of(state)}"}
    engines: list[dict[str, Any]] = httpx.get(f"{state.root_url}/status", headers=headers).json()["engines"]
    return engines


def key_of(state: ServiceState) -> str:
    return state.key_path.read_text().strip()


def ask(state: ServiceState, **changes: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": "jeex are more", "seed": 1, **changes}
    headers = {"Authorization": f"Bearer {key_of(state)}"}
    return httpx.post(f"{state.url}/completions", json=body, headers=headers, timeout=300)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder of the tests' own; whatever is up in it at the end is brought down."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(home))
        yield home
        for name in service.all_names():
            entail("serve", "down", "--name", name)


@pytest.fixture(scope="module")
def dry(home: Path) -> ServiceState:
    """A service of fake engines."""
    entail("serve", "up", "--name", "dry", *FAKE)
    return found("dry")


def assert_nothing_left(name: str, processes: tuple[Process, ...]) -> None:
    assert [process for process in processes if process.is_alive] == []
    assert not any((service.state_folder() / f"{name}.{suffix}").exists() for suffix in ("json", "key"))


def test_up_reports_the_address_and_keeps_the_key_private(dry: ServiceState, home: Path) -> None:
    again = entail("serve", "up", "--name", "dry", *FAKE)
    assert "up already" in again.stdout
    assert all(word in again.stdout for word in (dry.url, str(dry.key_path), "entail serve down --name dry"))
    assert found("dry").daemon == dry.daemon
    folder = home / "entail" / "serve"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(dry.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode) == 0o600
    key = key_of(dry)
    written = [path.read_text() for path in folder.iterdir() if path.is_file() and path != dry.key_path]
    arguments = [Path(f"/proc/{process.pid}/cmdline").read_text() for process in (dry.daemon, *dry.processes)]
    assert not any(key in text for text in [*written, *arguments, again.stdout, again.stderr])


def test_it_listens_on_the_loopback_interface_alone(dry: ServiceState) -> None:
    port = int(dry.root_url.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [words[1].split(":")[0] for words in listening if int(words[1].split(":")[1], 16) == port] == ["0100007F"]


def test_it_answers_who_has_the_key(dry: ServiceState) -> None:
    first, second = ask(dry), ask(dry)
    assert first.status_code == 200, first.text
    assert first.json()["choices"] == second.json()["choices"]
    assert httpx.post(f"{dry.url}/completions", json={}).status_code == 401
    assert httpx.get(f"{dry.root_url}/health").json() == {"status": "ok"}


def test_another_model_under_the_same_name_is_refused(dry: ServiceState) -> None:
    done = entail("serve", "up", "--name", "dry", "--model", MODEL, check=False)
    assert done.returncode == 2 and "another model" in done.stderr
    assert found("dry").daemon == dry.daemon


def test_a_second_daemon_of_the_name_is_refused(dry: ServiceState) -> None:
    done = entail("serve", "up", "--foreground", "--name", "dry", *FAKE, check=False)
    assert done.returncode == 2 and "--name dry" in done.stderr
    assert ask(found("dry")).status_code == 200


def test_status_shows_the_engines(dry: ServiceState) -> None:
    wait_until(lambda: all(engine["stats"] for engine in engines_of(dry)))
    shown = entail("serve", "status").stdout
    assert all(word in shown for word in ("dry", dry.url, "up since", "restarts", "cached"))
    assert {str(engine["pid"]) for engine in engines_of(dry)} <= set(shown.split())


def test_an_engine_that_is_killed_comes_back(dry: ServiceState) -> None:
    victim = engines_of(dry)[0]["pid"]
    os.kill(victim, signal.SIGKILL)

    def is_back() -> bool:
        first = engines_of(dry)[0]
        return first["alive"] and first["pid"] != victim and first["restarts"] == 1 and bool(first["stats"])

    wait_until(is_back)
    assert {ask(dry).status_code for _ in range(4)} == {200}
    wait_until(lambda: engines_of(dry)[0]["pid"] in {process.pid for process in found("dry").processes})


def test_jobs_refuse_a_service_of_another_model(dry: ServiceState, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dry run"):
        check_service(Engine(service="dry"), [dry.model])
    with pytest.raises(InputError) as raised:
        check_service(Engine(service="nobody"), [dry.model])
    assert raised.value.where == "--service nobody"
    check_service(Engine(), ["anything"])
    replace(dry, name="other", kind="vllm", weights="f00d").save()
    with pytest.raises(InputError) as raised:
        check_service(Engine(service="other"), [dry.model])
    assert raised.value.where == "--service other"
    service.remove_files("other")


def test_down_leaves_nothing(dry: ServiceState) -> None:
    before = found("dry")
    assert len(before.processes) > 4  # engines and Ray's own
    done = entail("serve", "down", "--name", "dry")
    assert "no process of it is left" in done.stdout
    assert_nothing_left("dry", (before.daemon, *before.processes))
    assert "not up" in entail("serve", "down", "--name", "dry").stdout
    assert "dry" not in entail("serve", "status").stdout


def test_a_daemon_that_was_killed_is_noticed_and_cleared_away(home: Path) -> None:
    entail("serve", "up", "--name", "fallen", *FAKE)
    state = found("fallen")
    for process in state.processes:  # held, as a process is that hangs: it does not end by itself when Ray does
        if "raylet" in Path(f"/proc/{process.pid}/comm").read_text():
            os.kill(process.pid, signal.SIGSTOP)
    os.kill(state.daemon.pid, signal.SIGKILL)
    wait_until(lambda: not state.daemon.is_alive)
    assert find_service("fallen") is None
    assert "had died" in entail("serve", "status").stdout
    assert_nothing_left("fallen", state.processes)


def test_up_after_a_death_is_a_fresh_service(home: Path) -> None:
    entail("serve", "up", "--name", "again", *FAKE)
    first = found("again")
    os.kill(first.daemon.pid, signal.SIGKILL)
    wait_until(lambda: not first.daemon.is_alive)
    entail("serve", "up", "--name", "again", *FAKE)
    second = found("again")
    assert second.daemon != first.daemon and ask(second).status_code == 200
    assert [process for process in first.processes if process.is_alive] == []
    entail("serve", "down", "--name", "again")


def test_a_taken_port_is_the_daemons_error_and_leaves_nothing(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = entail("serve", "up", "--name", "late", *FAKE, "--port", str(port), check=False)
    assert done.returncode == 2 and f"--port {port}" in done.stderr and "Traceback" not in done.stderr
    assert_nothing_left("late", ())
    assert read_state("late") is None


def test_a_model_that_is_none_is_refused_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    done = entail("serve", "up", "--name", "none", "--model", tmp_path / "nowhere", check=False)
    assert done.returncode == 2 and "nowhere" in done.stderr
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')
    done = entail("serve", "up", "--name", "none", "--model", tmp_path, "--engine", "fake", check=False)
    assert done.returncode == 2 and str(tmp_path) in done.stderr, done.stderr
    assert_nothing_left("none", ())


def test_a_service_in_the_foreground_ends_on_a_signal_at_any_time(home: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "serve", "up", "--foreground", "--name", "front", *FAKE]
    for until in (lambda: read_state("front"), lambda: find_service("front")):  # as it starts, and when it is up
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_until(until)
        family = descendants(child.pid)
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=WAIT_SECONDS)
        assert_nothing_left("front", family)


def test_on_a_cluster_its_engines_go_with_it_and_the_cluster_stays(home: Path, tmp_path: Path) -> None:
    with connect(address=None, log_dir=tmp_path, num_cpus=2) as session:
        for how in ("killed", "down"):
            entail("serve", "up", "--name", "guest", *FAKE, "--address", session.address)
            engines = [engine["pid"] for engine in engines_of(found("guest"))]
            family = {process.pid: process for process in descendants(os.getpid())}
            assert set(engines) <= set(family)  # of this test's cluster, not of the service
            if how == "killed":
                os.kill(found("guest").daemon.pid, signal.SIGKILL)
            else:
                entail("serve", "down", "--name", "guest")
            wait_until(lambda here=[family[pid] for pid in engines]: not any(engine.is_alive for engine in here))
        assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 41, "a b"])
def test_names_are_names_of_files(name: str) -> None:
    done = entail("serve", "down", "--name", name, check=False)
    assert done.returncode == 2 and "--name" in done.stderr


def test_only_the_very_process_is_ended(home: Path) -> None:
    child = subprocess.Popen(["sleep", "600"])
    (process,) = [process for process in descendants(os.getpid()) if process.pid == child.pid]
    another = replace(process, began="another boot")
    gone = ServiceState("gone", another, "m", "m", "f", "fake", 0.0)
    gone.with_processes([another]).save()
    assert forget(gone.with_processes([another])) == []
    assert process.is_alive and child.poll() is None
    assert forget(gone.with_processes([process])) == []
    assert child.wait() == -signal.SIGKILL


SENTENCE = "jeex are more curious than hoosk"


@pytest.fixture(scope="module")
def real(home: Path) -> ServiceState:
    """A service of one vLLM engine with the embedded model."""
    entail("serve", "up", "--name", "real", "--model", MODEL, "--engines", "1")
    return found("real")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suite") / "set"
    entail("data", "make", "reversals", "--lexicon", "tiny", "--out", out, "--worlds", "1", "--facts", "8")
    return out


def test_the_documented_question_has_the_documented_answer(real: ServiceState) -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    curl = next(block for block in page.split("```")[1::2] if "curl" in block).removeprefix("bash\n")
    curl = curl.replace(".venv/bin/python", sys.executable).replace("/default.", "/real.")
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, cwd=ROOT, check=True)
    answer = json.loads(done.stdout)
    promised = json.loads(
        next(block for block in page.split("```")[1::2] if block.startswith("json")).removeprefix("json")
    )
    assert answer["choices"][0]["text"].strip() == promised["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] == promised["choices"][0]["finish_reason"]


def test_the_openai_client_talks_to_the_model(real: ServiceState) -> None:
    with OpenAI(base_url=real.url, api_key=key_of(real)) as client:
        texts = [
            client.completions.create(model=MODEL, prompt=f"{SENTENCE}\n---\n", temperature=1.0, seed=seed)
            .choices[0]
            .text
            for seed in (1, 1, 2)
        ]
    assert texts[0] == texts[1] != texts[2]


def test_scores_over_http_are_those_of_the_engine(
    real: ServiceState, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SERVE_KEY", key_of(real))
    options = ("less curious than jeex", "more curious than jeex", "curious", "jeex")
    items = [
        ScoreItem("a", f"{SENTENCE}\n---\n", "hoosk are", options, unconditional="hoosk are"),
        ScoreItem("b", "", "jeex", options),
        ScoreItem("c", f"{SENTENCE}\n" * 40, "hoosk are", options),
    ]
    endpoint = EndpointEngine(EngineSpec(kind="endpoint", model=MODEL, url=real.url, key_variable="SERVE_KEY"))
    over_http = endpoint.score(items)
    endpoint.close()
    with connect(address=real.address, log_dir=tmp_path):
        judged = ray.get(ActorPool.attach("real").ask("judge", (items,)))
    for here, there in zip(over_http, judged, strict=True):
        assert isinstance(here, Score) and isinstance(there, Score)
        assert here.log_likelihoods == pytest.approx(there.log_likelihoods, abs=1e-4)
        assert here.token_log_likelihoods == pytest.approx(there.token_log_likelihoods, abs=1e-4)
        assert here.unconditional == pytest.approx(there.unconditional, abs=1e-4)
        assert (here.num_tokens, here.greedy) == (there.num_tokens, there.greedy)
    assert over_http[0].log_likelihoods[0] > over_http[0].log_likelihoods[1]  # the model is no random one


def test_jobs_work_on_the_engines_that_are_up(real: ServiceState, suite: Path, tmp_path: Path) -> None:
    (engine,) = engines_of(real)
    words = ("--documents", suite, "--model", MODEL, "--methods", "local", "--service", "real")
    for number in range(2):
        entail("augment", *words, "--out", tmp_path / f"wrote{number}")
    assert rows(tmp_path / "wrote0") == rows(tmp_path / "wrote1") != []
    (after,) = engines_of(real)
    assert (after["pid"], after["restarts"]) == (engine["pid"], 0)  # nothing was started
    refused = entail("augment", *words[:-1], "nobody", "--out", tmp_path / "wrote9", check=False)
    assert refused.returncode == 2 and not (tmp_path / "wrote9").exists()


def rows(out: Path) -> list[str]:
    from data.records import Augmentation
    from data.store import read_folder

    return [row.text for row in read_folder(out / "augmentations", Augmentation)]


def test_an_engine_that_is_killed_between_jobs_comes_back_with_the_same_scores(
    real: ServiceState, suite: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "--suite", suite, "--model", MODEL, "--contexts", "none,all", "--service", "real")
    entail(*words, "--out", tmp_path / "before")
    victim = engines_of(real)[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    entail(*words, "--out", tmp_path / "after")  # comes while the engine starts again
    assert engines_of(real)[0]["pid"] != victim
    reports = [json.loads((tmp_path / out / "report" / "report.json").read_text()) for out in ("before", "after")]
    assert reports[0]["suites"] == reports[1]["suites"]
    assert reports[0]["suites"]["reversals"]["trained"]["base+all"]["accuracy"] > 0.9
    assert ask(real, prompt=SENTENCE).status_code == 200


def test_checkpoints_are_swapped_in_and_the_base_model_comes_back(
    real: ServiceState, suite: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(real.model, tuned)
    weights = load_file(tuned / "model.safetensors")
    save_file({name: 0.9 * tensor for name, tensor in weights.items()}, tuned / "model.safetensors", {"format": "pt"})
    content = {
        "name": "tuned",
        "base": real.model,
        "num_steps": 1,
        "key": "",
        "fingerprint": weights_fingerprint(tuned),
    }
    (tuned / "checkpoint.json").write_text(json.dumps(content))
    before = ask(real, prompt=SENTENCE, echo=True, logprobs=1, max_tokens=0).json()["choices"]
    words = ("evaluate", "--suite", suite, "--checkpoints", tuned, "--service", "real")
    entail(*words, "--out", tmp_path / "scored")
    assert len(list((tmp_path / "scored" / "scores").iterdir())) == 1
    wait_until(lambda: engines_of(real)[0]["stats"].get("swaps", 0) >= 1)
    assert ask(real, prompt=SENTENCE, echo=True, logprobs=1, max_tokens=0).json()["choices"] == before
    wait_until(lambda: engines_of(real)[0]["stats"].get("swaps", 0) >= 2)
    (tuned / "checkpoint.json").write_text(json.dumps({**content, "base": str(tuned)}))
    refused = entail(*words, "--out", tmp_path / "refused", check=False)
    assert refused.returncode == 2 and "serves" in refused.stderr


def test_a_real_service_ends_without_a_trace(real: ServiceState) -> None:
    state = found("real")
    assert len(state.processes) > 3
    entail("serve", "down", "--name", "real")
    assert_nothing_left("real", (state.daemon, *state.processes))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_deadline_that_is_none_is_refused(home: Path, seconds: str) -> None:
    done = entail("serve", "up", "--name", "hasty", *FAKE, "--request-seconds", seconds, check=False)
    assert done.returncode == 2 and "--request-seconds" in done.stderr and "Traceback" not in done.stderr
    assert_nothing_left("hasty", ())
