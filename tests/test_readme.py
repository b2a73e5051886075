"""README and docs are true: commands parse, recipes load, links resolve, the tree exists, the reference is current."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.rendering import load_book
from data.suites import read_suite_file
from pipeline.cli import build_parser
from pipeline.recipe import load_recipe, parse_recipe
from pipeline.reference import leaves, render

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
REFERENCE = "docs/reference.md"
ROOMS = ("augment_service", "cluster", "data", "evaluate", "pipeline", "train")
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
INDENT = 2
NAMES = {" ".join(leaf.prog.split()[1:n]) for leaf in leaves(build_parser()) for n in range(2, 5)}  # of commands


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_closed_and_nothing_is_left_to_fill_in(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("|") and not line.endswith("|")] == []
    assert [line for line in lines if re.fullmatch(r"[A-Z_]{3,}|.*\b(TODO|FIXME|XXX)\b.*", line)] == []


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" are those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for named, content in found if named == language]


def all_blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in blocks((ROOT / page).read_text(), language)]


def commands() -> Iterator[str]:
    """Lines of bash blocks and spans of code that call make or the command line, without their comments."""
    for page in PAGES:
        text = (ROOT / page).read_text() if page != REFERENCE else ""
        lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*lines, *spans]:
            command = re.split(r"\s+#", line)[0].strip()
            if re.match(r"make [a-z]|(python -m pipeline|entail) [a-z-]", command):
                yield command


def listed_paths() -> dict[str, str]:
    """The paths in the README's tree with their descriptions, folders with a slash at their end."""
    parents: list[str] = []
    paths = {}
    for line in blocks((ROOT / "README.md").read_text(), "")[-1].splitlines():
        parts = re.fullmatch(r"( *)(\S+) *(.*)", line)
        assert parts, f"not a line of the tree: {line!r}"
        indent, name, phrase = parts.groups()
        del parents[len(indent) // INDENT :]
        parents.append(name)
        paths["".join(parents)] = phrase
    return paths


def tracked_files() -> set[str]:
    """The files of the repository, those about to be added among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_parses(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS
        return
    words = [word for word in (words[1:] if words[0] == "entail" else words[3:]) if word != "--help"]
    if " ".join(words) in NAMES | {"", "serve up|status|down"}:
        return  # a command that is only named
    flags = build_parser().parse_args(words)
    if words[0] in {"demo", "run"} and not str(flags.recipe).startswith("my"):
        load_recipe(ROOT / flags.recipe, flags.overrides)


def test_first_screen_has_the_two_commands() -> None:
    first_screen = blocks((ROOT / "README.md").read_text(), "bash")[0].splitlines()
    assert [line.partition("#")[0].strip() for line in first_screen] == ["make demo", "make test"]


def test_recipes_and_prompt_books_load(tmp_path: Path) -> None:
    found = all_blocks("toml")
    assert len(found) >= 4
    for block in found:
        content = tomllib.loads(block)
        if "nothing" in content:
            (tmp_path / "book.toml").write_text(block)
            load_book(None, tmp_path / "book.toml")
        elif "study" in content:
            parse_recipe(content, {}, where="docs")
        else:
            parse_recipe({"study": "x", "data": {"reversals": {}}, **content}, {}, where="docs")


def test_the_example_of_a_question_is_read(tmp_path: Path) -> None:
    (example,) = (block for block in all_blocks("json") if '"options"' in block)
    (tmp_path / "questions.jsonl").write_text(example)
    (question,) = read_suite_file(tmp_path / "questions.jsonl")
    assert question.options[question.answer] == "jeex"


def test_tree_is_true() -> None:
    listed, tracked = listed_paths(), tracked_files()
    missing = [
        p for p in listed if p not in tracked and not any(name.startswith(p) for name in tracked if p[-1] == "/")
    ]
    assert missing == []
    assert [path for path, phrase in listed.items() if not phrase] == []


def test_tree_has_every_folder_of_the_rooms() -> None:
    parts = [name.split("/") for name in tracked_files() if name.startswith(ROOMS) and name.endswith(".py")]
    folders = {f"{part[0]}/" for part in parts} | {f"{part[0]}/{part[1]}/" for part in parts if len(part) > 2}
    assert folders - set(listed_paths()) == set()


def test_links_resolve() -> None:
    for page in PAGES:
        for target, _, anchor in (
            link.partition("#") for link in re.findall(r"\]\((?!https?://)([^)]+)\)", (ROOT / page).read_text())
        ):
            path = (ROOT / page).parent / target if target else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_reference_is_current() -> None:
    assert (ROOT / REFERENCE).read_text() == render(), "run: python -m pipeline.reference > docs/reference.md"
