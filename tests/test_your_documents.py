"""The walk of docs/your-documents.md with a real model: its commands up to the training, on fewer documents."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.real_models import SMOLLM2, real_model
from pipeline.cli import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "your-documents.md"
TOWN = ROOT / "tests" / "sample_town"
USED = "bakery bridge clockmaker engineer mayor mill railway tower".split()
MORE = ("--engines", "1", "--questions.writers", "cloze")


def commands() -> Iterator[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return (line for block in blocks for line in block.splitlines() if line.startswith("entail "))


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_walk_works_up_to_its_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it costs, and whether there is anything to learn; the training of this model takes half an hour."""
    town = tmp_path / "sample_town"
    town.mkdir()
    for name in USED:
        shutil.copy(TOWN / f"{name}.md", town)
    first = [line for line in commands() if "--train." not in line and "export" not in line]
    assert len(first) == 3
    for line in first:
        line = line.replace("$MODEL", str(real_model(SMOLLM2))).replace("tests/sample_town", str(town))
        words = shlex.split(line.replace("runs/", f"{tmp_path}/"))[1:]
        assert main([*words, *MORE] if words[0] == "learn" else words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "right with the source" in shown and "prompts" in shown
    questions = [json.loads(line) for line in (tmp_path / "town" / "questions" / "questions.jsonl").open()]
    assert len(questions) > 10 and {row["split"] for row in questions} >= {"test", "known"}
    assert not (tmp_path / "town" / "report").exists()
