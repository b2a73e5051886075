"""Web pages: how much of their main content is read, how much else, and how fast, beside other libraries.

`python -m benchmarks.pages --json OUT`. The labelled pages in `labelled_pages/` are modelled on what common programs
write; what is main content in them stands between `<!--[-->` and `<!--]-->`, without what stands between `<!--(-->` and
`<!--)-->`. Bylines and the like, between `<!--?-->` and `<!--/?-->`, count for nobody. Peers that are not installed are
left out: trafilatura, readability-lxml. Times are CPU seconds of one process. Writes OUT and a temporary folder.
"""

import argparse
import html
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import measure_import

FOLDER = Path(__file__).parent / "labelled_pages"
NUM_PAGES = 1000
GOALS = {"precision": 0.95, "recall": 0.97}
_LABEL = re.compile(r"<!--(\[|\]|\(|\)|\?|/\?)-->")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+")
_BREAK = re.compile(
    r"</?(?:p|div|li|td|th|tr|h\d|br|dt|dd|ul|ol|dl|table|pre|section|caption|figcaption|blockquote|details|summary|math"
    r"|button|mi|mo)\b[^>]*>",
    re.I,
)
Reader = Callable[[str], str]


@dataclass(frozen=True)
class LabelledPage:
    """A page, the words of its main content, and the words that count neither as content nor as a mistake."""

    name: str
    markup: str
    main: Counter[str]
    neutral: Counter[str]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON file; the exit code is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    flags = parser.parse_args(words)
    pages = read_labelled()
    readers = {"ours": read_ours, "ours, --html full": read_full, **bare_readers()}
    quality = {name: measure_quality(read, pages) for name, read in readers.items()}
    speed = measure_speed(readers, [longer_page(number) for number in range(NUM_PAGES)])
    missed = [name for name, goal in GOALS.items() if quality["ours"][name] < goal]
    report = {"goals": GOALS, "missed": missed, "quality": quality, "documents_per_second": speed}
    flags.json.parent.mkdir(parents=True, exist_ok=True)
    flags.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for name, scores in quality.items():
        print(f"{name}: precision {scores['precision']:.3f}, recall {scores['recall']:.3f}, {speed[name]:.0f} pages/s")
    print(f"ours, from files to the manifest: {speed['import']:.0f} pages/s")
    return 1 if missed else 0


def read_labelled() -> list[LabelledPage]:
    """The labelled pages, in the order of their names."""
    return [_labelled(path) for path in sorted(FOLDER.glob("*.html"))]


def count_words(text: str) -> Counter[str]:
    """Words in lower case; kana, ideographs and hangul one by one."""
    return Counter(word.lower() for word in _WORD.findall(text))


def score(text: str, page: LabelledPage) -> tuple[float, float]:
    """Precision and recall of a text as the main content of a page."""
    found = count_words(text)
    num_right, num_wrong = (found & page.main).total(), (found - page.main - page.neutral).total()
    return num_right / max(1, num_right + num_wrong), num_right / page.main.total()


def measure_quality(read: Reader, pages: Sequence[LabelledPage]) -> dict[str, Any]:
    """Means over the pages, and the scores of each."""
    scores = {page.name: score(read(page.markup), page) for page in pages}
    means = [sum(values) / len(scores) for values in zip(*scores.values(), strict=True)]
    rounded = {name: [round(value, 3) for value in values] for name, values in scores.items()}
    return {"precision": round(means[0], 4), "recall": round(means[1], 4), "pages": rounded}


def measure_speed(readers: Mapping[str, Reader], markups: Sequence[str]) -> dict[str, float]:
    """Pages per CPU second of each reader, and of an import from files to the manifest."""
    speed = {}
    for name, read in readers.items():
        cpu = time.process_time()
        for markup in markups:
            read(markup)
        speed[name] = round(len(markups) / (time.process_time() - cpu), 1)
    folder = Path(tempfile.mkdtemp(prefix="bench-pages-"))
    try:
        (folder / "pages").mkdir()
        for number, markup in enumerate(markups):
            (folder / "pages" / f"{number}.html").write_text(markup)
        imported = measure_import(folder / "pages", folder / "out", 0.0)
    finally:
        shutil.rmtree(folder)
    return speed | {"import": round(len(markups) / imported["cpu_seconds"], 1)}


def longer_page(number: int) -> str:
    """A labelled page whose main content stands there 1 to 20 times: 2 to 60 kB; each number gives another page."""
    paths = sorted(FOLDER.glob("*.html"))
    source = paths[number % len(paths)].read_text()
    start, end = source.rindex("<!--[-->"), source.rindex("<!--]-->")
    body = source[start:end] * (1 + number // len(paths) % 20)
    return _LABEL.sub("", f"{source[:start]}{body} {number} {source[end:]}")


def read_ours(markup: str) -> str:
    """The main content."""
    from data.corpora.html import read_page

    return read_page(markup).text


def read_full(markup: str) -> str:
    """All that is visible."""
    from data.corpora.html import read_page

    return read_page(markup, full=True).text


def bare_readers() -> dict[str, Reader]:
    """The libraries by themselves: those that we use, and peers that are installed."""
    from resiliparse.extract.html2text import extract_plain_text
    from selectolax.lexbor import LexborHTMLParser

    def read_selectolax(markup: str) -> str:
        tree = LexborHTMLParser(markup)
        tree.strip_tags(["script", "style", "noscript", "head"])
        return tree.body.text(separator=" ") if tree.body else ""

    def read_resiliparse(markup: str) -> str:
        return extract_plain_text(markup, main_content=True, list_bullets=False, alt_texts=False)

    readers: dict[str, Reader] = {
        "selectolax, all text": read_selectolax,
        "resiliparse, main content": read_resiliparse,
    }
    try:
        import trafilatura

        readers["trafilatura"] = lambda markup: trafilatura.extract(markup, include_comments=False) or ""
        readers["trafilatura, for recall"] = lambda markup: (
            trafilatura.extract(markup, include_comments=False, favor_recall=True) or ""
        )
    except ImportError:
        pass
    try:
        import readability
        from lxml.html import fromstring

        readers["readability-lxml"] = lambda markup: " ".join(
            fromstring(readability.Document(markup).summary()).itertext()
        )
    except ImportError:
        pass
    return readers


def _labelled(path: Path) -> LabelledPage:
    source = path.read_text()
    words: dict[str, Counter[str]] = {"[": Counter(), "?": Counter(), "(": Counter(), "": Counter()}
    inside, position = [""], 0
    for label in _LABEL.finditer(source):
        words[inside[-1]] += count_words(_plain(source[position : label.start()]))
        position = label.end()
        if label[1] in words:
            inside.append(label[1])
        else:
            inside.pop()
    return LabelledPage(path.stem, _LABEL.sub("", source), words["["], words["?"])


def _plain(markup: str) -> str:
    """The words of markup, without a parser, so that the labels depend on none."""
    text = _BREAK.sub(" ", re.sub(r"<!--.*?-->", "", markup, flags=re.S))
    return html.unescape(re.sub(r"<[^>]*>", "", text))


if __name__ == "__main__":
    sys.exit(main())
