"""The walk of docs/your-documents.md with a real model: its commands, on fewer documents and with less training."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from benchmarks.real_models import SMOLLM2, real_model
from pipeline.cli import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "your-documents.md"
TOWN = ROOT / "tests" / "sample_town"
USED = "bakery bridge clockmaker mill railway".split()
# The walk takes most of an hour; these settings show that its commands work, not what is learned.
LESS = {"--train.batch-size": "2", "--train.export-every": "2"}
MORE = (
    "--train.steps 2 --engines 1 --augment.methods local/reverse --augment.samples 1 --questions.writers cloze".split()
)


def commands() -> Iterator[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return (line for block in blocks for line in block.splitlines() if line.startswith("entail "))


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_walk_works_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    town = tmp_path / "sample_town"
    town.mkdir()
    for name in USED:
        shutil.copy(TOWN / f"{name}.md", town)
    for line in commands():
        line = line.replace("$MODEL", str(real_model(SMOLLM2))).replace("tests/sample_town", str(town))
        words = shlex.split(line.replace("runs/", f"{tmp_path}/"))[1:]
        for flag, value in LESS.items():
            if flag in words:
                words[words.index(flag) + 1] = value
        assert main([*words, *MORE] if words[0] == "learn" else words) == 0, capsys.readouterr().err
    out = tmp_path / "town"
    report = json.loads((out / "report" / "report.json").read_text())
    arms = {name for cells in report["suites"]["documents"].values() for name in cells}
    assert {"pretrained", "icl+nearest:4", "documents", "inferences", "documents@1", "inferences@1"} <= arms
    assert set(report["general"]["bits_per_byte"]) == {"pretrained"} | {name for name in arms if "icl" not in name}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "town-model").num_parameters() > 1e8
