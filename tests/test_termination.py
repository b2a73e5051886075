"""SIGTERM ends a command by our message and exit code: at once, after some time of its own, and when it is stuck."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from training_runs import ROOT, losses, make_run, make_world, starts, train_alone

from cluster import termination
from cluster.termination import ended_by_sigterm
from train.engine.state import states_folder
from train.run.loop import finetune
from train.run.stopping import StoppedError

BEGIN = """
import sys, time
from cluster import termination
from cluster.termination import TerminatedError, ended_by_sigterm, graceful, requested
from data.errors import ResumableError
"""


def ended(body: str, signals: int = 1) -> tuple[int, str, float]:
    """Exit code, output and seconds after SIGTERM of a script, which prints `ready` first."""
    script = BEGIN + textwrap.dedent(body)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    process = subprocess.Popen([sys.executable, "-c", script], **options)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output, time.monotonic() - began


def test_it_is_raised_past_handlers_of_ordinary_errors() -> None:
    code, output, _ = ended("""
        try:
            with ended_by_sigterm():
                try:
                    print("ready", flush=True)
                    time.sleep(60)
                except Exception:
                    print("kept")
        except TerminatedError as error:
            print(error)
            sys.exit(3)
    """)
    assert (code, output) == (3, "ended by SIGTERM\n")


@pytest.mark.parametrize("kind", ["TerminatedError", "KeyboardInterrupt"])
def test_an_error_of_c_code_that_was_interrupted_is_the_interruption(kind: str) -> None:
    with pytest.raises(getattr(termination, kind, KeyboardInterrupt), match="ended"), ended_by_sigterm():
        try:
            raise getattr(termination, kind, KeyboardInterrupt)("ended")
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error
    with pytest.raises(SystemError, match="own"), ended_by_sigterm():
        raise SystemError("its own")


def test_work_that_looks_for_it_may_end_by_itself_and_a_second_signal_changes_nothing() -> None:
    code, output, _ = ended(
        """
        with ended_by_sigterm(), graceful(30):
            print("ready", flush=True)
            while not requested():
                time.sleep(0.05)
            time.sleep(1)
            print("saved")
        """,
        signals=2,
    )
    assert (code, output) == (0, "saved\n")


def test_work_that_does_not_look_is_interrupted_after_its_time() -> None:
    code, output, _ = ended("""
        try:
            with ended_by_sigterm(), graceful(0.5):
                print("ready", flush=True)
                time.sleep(60)
        except TerminatedError:
            print("interrupted")
    """)
    assert (code, output) == (0, "interrupted\n")


def test_a_process_that_is_stuck_ends_all_the_same() -> None:
    code, output, _ = ended("""
        termination.HARD_SECONDS = 1.0
        with ended_by_sigterm():
            try:
                print("ready", flush=True)
                time.sleep(60)
            except BaseException:
                time.sleep(60)
    """)
    assert code == 3
    assert output == "\nentail: ended by SIGTERM\n  re-run the same command to resume\n"


def test_a_lost_head_ends_the_command_with_its_reason() -> None:
    code, output, _ = ended(
        """
        import threading
        from cluster import session
        session.HEAD_SECONDS, session.HEAD_POLL_SECONDS = 0.5, 0.1
        print("ready", flush=True)
        try:
            with ended_by_sigterm(), session.watch_head("127.0.0.1:9"):
                time.sleep(60)
        except TerminatedError as error:
            print(error)
    """,
        signals=0,
    )
    assert code == 0 and output.startswith("the head of the Ray cluster, 127.0.0.1:9, has not answered")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("corpus"))


def test_a_training_that_is_stopped_goes_on_bit_for_bit(world: Path, tmp_path: Path) -> None:
    calm = train_alone(make_run(world, tmp_path / "calm"))
    run = make_run(world, tmp_path / "run", name="calm", checkpoint_every=0)
    with pytest.raises(StoppedError, match=r"stopped after step 1, its state is written"):
        finetune(run, lambda row: None, is_stopped=lambda: True)
    assert states_folder(Path(run.out)).exists() and not Path(run.out).exists()
    ref = train_alone(run)
    assert starts(ref) == [(0, 1), (1, 1)]
    assert losses(ref) == losses(calm) and ref.fingerprint == calm.fingerprint
