"""The README tells the truth: its commands exist, and its list of files is the repository's."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import build_parser
from pipeline.recipe import RECIPES, default_section, load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/data-sets.md",
    "docs/data.md",
    "docs/embedded-model.md",
    "docs/scale.md",
    "docs/serve.md",
    "docs/training-data.md",
    "docs/training.md",
)
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
INDENT = 2


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" are those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for named, content in found if named == language]


def commands() -> Iterator[str]:
    """Lines of bash blocks and spans of code that call make or the command line, without their comments."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*lines, *spans]:
            command = line.partition("  #")[0].strip()
            if re.match(r"make [a-z]|(python -m pipeline|entail) [a-z-]", command):
                yield command


def is_folder_of_another(path: str, listed: set[str]) -> bool:
    return path.endswith("/") and any(other != path and other.startswith(path) for other in listed)


def listed_paths() -> set[str]:
    """The paths in the README's last block, folders with a slash at their end."""
    block = blocks((ROOT / "README.md").read_text(), "")[-1]
    parents: list[str] = []
    paths = set()
    for line in block.splitlines():
        parts = re.fullmatch(r"( *)(\S+) *(.*)", line)
        assert parts, f"not a line of the list: {line!r}"
        indent, name, phrase = parts.groups()
        del parents[len(indent) // INDENT :]
        parents.append(name)
        paths.add("".join(parents))
        assert phrase or name.endswith("/"), f"no phrase for {name}"
    return paths


def tracked_files() -> set[str]:
    """The files of the repository, those about to be added among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.splitlines() if (ROOT / name).exists()}


def test_there_are_commands_of_both_kinds() -> None:
    found = set(commands())
    assert {"make demo", "make test", "python -m pipeline doctor"} <= found


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS
        return
    words = words[1:] if words[0] == "entail" else words[3:]
    if words == ["--help"]:
        return
    parser = build_parser()
    if words[0] in {"pretrain", "demo", "doctor"} or len(words) > 1:  # a verb alone may stand for itself in prose
        flags, rest = parser.parse_known_args(words)
        assert not rest or flags.takes_overrides
        if words[0] in {"demo", "run"}:
            load_recipe(ROOT / getattr(flags, "recipe", RECIPES / "demo.toml"), rest)
        if words[:2] == ["data", "make"]:
            default_section(flags.set, rest)


def test_first_screen_has_the_two_commands() -> None:
    first_screen = blocks((ROOT / "README.md").read_text(), "bash")[0].splitlines()
    assert [line.partition("#")[0].strip() for line in first_screen] == ["make demo", "make test"]


def test_list_of_files_is_true() -> None:
    listed = listed_paths()
    whole_folders = {path for path in listed if path.endswith("/") and not is_folder_of_another(path, listed)}
    tracked = {name for name in tracked_files() if not name.endswith("__init__.py")}
    inside = {name for name in tracked for folder in whole_folders if name.startswith(folder)}
    empty = {folder for folder in whole_folders if not any(name.startswith(folder) for name in inside)}
    assert empty == set()
    assert tracked - inside == {path for path in listed if not path.endswith("/")}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / page).read_text())
        assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []
