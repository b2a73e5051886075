"""`entail data import` and `inspect` as a user meets them: exit codes, messages, summaries."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import HEAVY, ROOT, refuse
from test_corpora import write_jsonl

from pipeline.cli import main


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Good rows, a copy, a broken line, a page, an archive."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", ["glon are femp. Femp are troff.", "yomp", "yomp"])
    with (folder / "a.jsonl").open("a") as file:
        file.write("no json [bold]\n")
    (folder / "b.html").write_text("<p>Page")
    (folder / "c.zip").write_bytes(b"PK")
    return folder


def test_an_import_ends_with_a_summary(capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["data", "import", str(corpus), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"read +2 files", shown) and re.search(r"documents +3 with 8 words", shown)
    assert f"1 broken JSON; first {corpus / 'a.jsonl'}, line 4: " in shown
    assert "1 duplicate text" in shown and "1 archive" in shown and re.search(r"rejected +3", shown)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["summary"]["num_documents"] == 3 and len(manifest["content"]) == 32
    assert main(["data", "import", str(corpus), "--out", str(out)]) == 0
    assert "finished" in capsys.readouterr().out


def test_an_import_of_other_files_into_the_folder_is_refused(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    words = ("data", "import", str(corpus), "--out", str(tmp_path / "out"))
    assert main(words) == 0
    capsys.readouterr()
    assert "other inputs or settings" in refuse(capsys, *words, "--split-sentences", "independent")
    (corpus / "d.txt").write_text("new")
    assert "other inputs or settings" in refuse(capsys, *words)


def test_nothing_usable_is_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    message = refuse(capsys, "data", "import", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"))
    assert "1 missing column" in message and "a.jsonl, line 1" in message and "body" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nowhere",), "nothing matches"),
        (("{corpus}", "--chunk-tokens", "2"), "--chunk-tokens"),
        (("{corpus}", "--dedup", "--similarity", "7"), "between 0 and 1"),
        (("{corpus}", "--chunk-tokens", "50", "--model", "models/none"), "models/none"),
        (("{corpus}", "--id-column", "text"), "its own id"),
    ],
)
def test_wrong_flags_are_one_message_and_write_nothing(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    out = tmp_path / "out"
    message = refuse(capsys, "data", "import", *(word.format(corpus=corpus) for word in words), "--out", str(out))
    assert expected in message
    assert not out.exists()


def test_flags_reach_the_import(capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path) -> None:
    flags = ["--split-sentences", "independent", "--chunk-tokens", "8", "--dedup", "--corpus", "mine"]
    assert main(["data", "import", str(corpus / "*.jsonl"), "--out", str(tmp_path / "out"), *flags]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"documents +3", shown) and "at most 8 words" in shown
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert (settings["similarity"], settings["corpus"], settings["split"]) == (0.8, "mine", "independent")


def test_inspect_shows_an_import(capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path) -> None:
    assert main(["data", "import", str(corpus), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["data", "inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "Document, complete" in shown and "3 rows in 1 shards" in shown and "corpus: corpus 3" in shown
    assert re.search(r"text +string +4 +4 +13 +30", shown)
    assert "glon are femp. Femp are troff." in shown and "1 broken JSON" in shown


def test_inspect_shows_the_splits_of_a_made_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "make", "reversals", "--out", str(tmp_path / "set")]) == 0
    capsys.readouterr()
    assert main(["data", "inspect", str(tmp_path / "set")]) == 0
    shown = capsys.readouterr().out
    assert "Document, complete" in shown and "Question, complete" in shown
    assert re.search(r"split: .*\w+ \d+", shown) and re.search(r"num_documents +\d+", shown)


def test_inspect_of_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no rows" in refuse(capsys, "data", "inspect", str(tmp_path))
    assert "no folder" in refuse(capsys, "data", "inspect", str(tmp_path / "nowhere"))


def test_inspect_reports_a_folder_that_is_not_finished(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "make", "reversals", "--out", str(tmp_path / "set")]) == 0
    (tmp_path / "set" / "questions" / "manifest.json").unlink()
    shard = next((tmp_path / "set" / "documents").glob("*.arrow"))
    assert main(["data", "inspect", str(tmp_path / "set")]) == 0
    assert "unfinished" in capsys.readouterr().out
    shard.write_bytes(shard.read_bytes()[:200])
    assert "part-00000.arrow" in refuse(capsys, "data", "inspect", str(tmp_path / "set"))


@pytest.mark.parametrize("action", ["make", "import", "inspect", "export"])
def test_help_of_the_actions_imports_nothing_heavy(action: str) -> None:
    libraries = (*HEAVY, "numpy", "msgspec", "pycld2", "pypdfium2", "rensa", "resiliparse", "selectolax", "tokenizers")
    program = (
        "import json, sys\nfrom pipeline.cli import main\n"
        f"try:\n    main(['data', {action!r}, '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print(json.dumps([name for name in {libraries!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
