"""What the page on services tells the reader to type."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEY = "a-key-of-the-test"
CURL = """#!/bin/bash
tr '\\0' ' ' < /proc/$$/cmdline > "$SEEN"
while [ $# -gt 0 ]; do [[ $1 == @* ]] && cat "${1#@}" > "$SEEN.header"; shift; done
"""


def test_the_documented_request_puts_the_key_into_no_process_arguments(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    block = next(block for block in page.split("```")[1::2] if "curl" in block).removeprefix("bash\n")
    state = tmp_path / "entail" / "serve"
    state.mkdir(parents=True)
    (state / "default.key").write_text(KEY)
    (state / "default.json").write_text(json.dumps({"url": "http://127.0.0.1:9/v1"}))
    curl = tmp_path / "curl"
    curl.write_text(CURL)
    curl.chmod(0o755)
    seen = tmp_path / "seen"
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path), "SEEN": str(seen)}
    block = block.replace(".venv/bin/python", sys.executable)
    subprocess.run(["bash", "-c", block], env={**os.environ, **settings}, check=True, cwd=tmp_path)
    assert "http://127.0.0.1:9/v1/completions" in seen.read_text() and KEY not in seen.read_text()
    assert Path(f"{seen}.header").read_text().strip() == f"Authorization: Bearer {KEY}"
