"""What PDF files cost: their import beside the bare library, in one run.

`python -m benchmarks.documents_pdf --json OUT [--pages 200] [FILE ...]` measures processor seconds, children included:
the import of the files (by default one that it makes), PDFium's text of the same pages in the order of the file, and
pypdf's where it is installed.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_BARE = {
    "pypdfium2": """
import sys, pypdfium2
for path in sys.argv[1:]:
    for page in pypdfium2.PdfDocument(path):
        page.get_textpage().get_text_bounded()
""",
    "pypdf": """
import sys, pypdf
for path in sys.argv[1:]:
    for page in pypdf.PdfReader(path).pages:
        page.extract_text()
""",
}
_IMPORT = """
import sys
from pathlib import Path
from data.corpora.importer import import_corpus
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
out = Path(sys.argv[1])
import_corpus(find_sources(sys.argv[2:], out=out), out, ImportSettings())
"""


def main() -> int:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents_pdf", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=200, help="of the file that is made (default: 200)")
    parser.add_argument("files", nargs="*", type=Path, help="PDF files to read instead")
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-pdf-"))
    try:
        report = measure(folder, flags.files or [write_pdf(folder / "made.pdf", flags.pages)])
    finally:
        shutil.rmtree(folder)
    flags.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


def measure(folder: Path, files: list[Path]) -> dict[str, Any]:
    """Pages per processor second of the import and of the bare libraries; start-up of each process included."""
    import pypdfium2

    pages = sum(len(pypdfium2.PdfDocument(path)) for path in files)
    names = [str(path) for path in files]
    seconds = {"entail": _seconds(_IMPORT, str(folder / "out"), *names)}
    for library, program in _BARE.items():
        if find_spec(library):
            seconds[library] = _seconds(program, *names)
    return {
        "pages": pages,
        "megabytes": round(sum(path.stat().st_size for path in files) / 1_000_000, 2),
        "cpu_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "pages_per_second": {name: round(pages / value, 1) for name, value in seconds.items()},
        "times_the_bare_library": round(seconds["entail"] / seconds["pypdfium2"], 2),
    }


def _seconds(program: str, *words: str) -> float:
    """Processor seconds of a Python program and of its children, with a check that it ended well."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", program, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used or time.monotonic() - started


def write_pdf(path: Path, pages: int) -> Path:
    """A file of two columns, with headings, running heads and page numbers, about 500 words a page."""
    from random import Random

    from reportlab.pdfgen.canvas import Canvas

    chance = Random(0)
    words = [
        "".join(chance.choice("bdfgklmnprst") + chance.choice("aeiou") for _ in range(n)) for n in (1, 2, 3, 4)
        for _ in range(500)
    ]  # fmt: skip
    canvas = Canvas(str(path), pageCompression=1)
    for number in range(1, pages + 1):
        canvas.setFont("Helvetica", 9)
        canvas.drawString(60, 800, f"A report on made-up words, page {number}")
        canvas.setFont("Helvetica-Bold", 14)
        canvas.drawString(60, 760, f"{number} {chance.choice(words).title()} and {chance.choice(words)}")
        canvas.setFont("Times-Roman", 10)
        for x in (60, 310):
            for line in range(55):
                canvas.drawString(x, 735 - 12 * line, _line(chance, words))
        canvas.showPage()
    canvas.save()
    return path


def _line(chance: Any, words: list[str]) -> str:
    """About as many characters as a column is wide; one line in ten ends a sentence."""
    line = ""
    while len(line) < 40:
        line += chance.choice(words) + " "
    return line.strip() + ("." if chance.random() < 0.1 else "")


if __name__ == "__main__":
    sys.exit(main())
