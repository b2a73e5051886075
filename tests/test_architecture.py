"""The house rules: sizes, docstrings, who may import what, no word that belongs to one machine."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.recipe import RECIPES, load_recipe

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("augment_service", "cluster", "data", "evaluate", "models", "pipeline", "train")
OURS = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FILES = [*OURS, *sorted((ROOT / "benchmarks").rglob("*.py"))]
SOLE_IMPORTERS = {"vllm": "augment_service/engines/vllm/", "deepspeed": "train/engine/zero_engine.py"}
MOST_LINES_OF_FUNCTION = 59
# Folders of one machine. Written in two halves, so that this file passes its own test.
MACHINE_PATHS = re.compile(r"/(?:root|home)" + r"/[\w.]+|/wo" + r"rk/\w+")


def each_file(test):
    return pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))(test)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public classes and functions of a module, and the public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    method
                    for method in node.body
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_")
                )


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all imports, those inside functions among them."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Each text file that belongs to the project, tracked or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listing.stdout.splitlines():
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            yield name, content.decode()


@each_file
def test_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module docstring is missing"


@each_file
def test_functions_are_short(path: Path) -> None:
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in functions(ast.parse(path.read_text()))}
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES_OF_FUNCTION} == {}


@each_file
def test_public_names_have_docstrings(path: Path) -> None:
    nodes = public(ast.parse(path.read_text()))
    # A nested function is private to its function, an overridden method is documented by its base class.
    assert [node.name for node in nodes if not ast.get_docstring(node) and not _is_override(node)] == []


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_library_is_known_to_one_place(library: str) -> None:
    importers = {str(p.relative_to(ROOT)) for p in OURS if library in imported(ast.parse(p.read_text()))}
    assert importers
    assert {name for name in importers if not name.startswith(SOLE_IMPORTERS[library])} == set()


def test_import_contracts_hold() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command, "import-linter is not installed beside this Python"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert re.search(r"Contracts: [6-9]\d* kept, 0 broken", done.stdout), done.stdout


def test_no_path_of_one_machine() -> None:
    found = {name: MACHINE_PATHS.findall(text) for name, text in tracked_texts()}
    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_loads(recipe: Path) -> None:
    assert load_recipe(recipe).study == recipe.stem


def _is_override(node: ast.AST) -> bool:
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.endswith(("override", "setter", "overload")) for name in decorators)
