"""The child process that reads PDF files: what crashes, loops or eats memory here does not reach the import.

`python -m data.corpora.pdf.worker` reads requests from its standard input and writes answers to its standard output,
one JSON object a line. Its processor time for a file and its memory are limited by the operating system.
"""

import json
import os
import resource
import sys
from typing import Any

import pypdfium2.raw as pdfium

from data.corpora.pdf.answers import BROKEN, ENCRYPTED, GARBLED, LONG, SCANNED, Answer, Request
from data.corpora.pdf.furniture import without_furniture
from data.corpora.pdf.layout import Region, Run, make_runs, regions_of
from data.corpora.pdf.prose import Prose, write_prose
from data.corpora.pdf.title import title_of
from data.corpora.pdf.words import Page, read_page

_MEMORY = 1 << 30  # bytes of address space, beside what the text may take
_MEMORY_PER_BYTE = 32  # of the text
_FLATTENED = 1  # PDFium's word for success
_BAD_SHARE = 0.3  # of a page's characters without a meaning
_ERRORS = {
    pdfium.FPDF_ERR_FILE: "the file cannot be opened",
    pdfium.FPDF_ERR_FORMAT: "this is no PDF, or its structure is damaged",
    pdfium.FPDF_ERR_SECURITY: "the file is encrypted in an unknown way",
    pdfium.FPDF_ERR_PAGE: "a page is missing",
}
OCR = "no text: the pages are images; run OCR, e.g. ocrmypdf"
_GARBLED = "the fonts do not tell which characters they show; run OCR, e.g. ocrmypdf --force-ocr"


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what the library prints is no answer
    pdfium.FPDF_InitLibrary()
    for line in sys.stdin.buffer:
        request: Request = json.loads(line)
        _limit(request)
        try:
            answer = read_file(request)
        except (MemoryError, RecursionError, OverflowError) as error:
            answer = _none(BROKEN, f"it cannot be read in bounded memory: {type(error).__name__}")
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _limit(request: Request) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + request["seconds"]
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or seconds < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    memory = _MEMORY + _MEMORY_PER_BYTE * request["max_bytes"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or memory < hard:
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def _none(reason: str, detail: str) -> Answer:
    return {"text": None, "heading": "", "outline": [], "rejected": [(0, reason, detail)]}


def read_file(request: Request) -> Answer:
    """The text of a file, or why there is none."""
    document = pdfium.FPDF_LoadDocument(os.fsencode(request["path"]), None)
    if not document:
        code = pdfium.FPDF_GetLastError()
        if code == pdfium.FPDF_ERR_PASSWORD:
            return _none(ENCRYPTED, "the file is protected by a password; remove it, e.g. with qpdf --decrypt")
        return _none(
            ENCRYPTED if code == pdfium.FPDF_ERR_SECURITY else BROKEN, _ERRORS.get(code, "it cannot be opened")
        )
    try:
        return _Reading(document, request).answer()
    finally:
        pdfium.FPDF_CloseDocument(document)


class _Reading:
    """One file: its pages are turned into runs one by one, and into text when all are known."""

    def __init__(self, document: Any, request: Request) -> None:
        self._document, self._request = document, request
        self._runs: list[list[Run]] = []
        self._heights: list[float] = []
        self._turned: list[tuple[int, str]] = []
        self._rejected: list[tuple[int, str, str]] = []

    def answer(self) -> Answer:
        count = pdfium.FPDF_GetPageCount(self._document)
        size = 0
        for index in range(count):
            page = self._read(index) or Page(0, 0)
            size += sum(len(word.text) + 1 for word in page.words)
            if size > self._request["max_bytes"]:
                return _none(LONG, f"more than {self._request['max_bytes'] >> 20} MiB of text")
            self._take(index, page)
        reasons = {reason for _, reason, _ in self._rejected}
        if not any(self._runs):
            if len(reasons) == 1:  # all pages alike: one reason for the file
                return _none(*self._rejected[0][1:])
            nothing = _none("empty", "no text on any page" if count else "there are no pages")
            return {**nothing, "rejected": self._rejected or nothing["rejected"]}
        prose = self._prose()
        heading = title_of(self._document, self._request["name"]) or prose.heading
        outline = list(prose.outline)
        return {"text": prose.text, "heading": heading, "outline": outline, "rejected": self._rejected}

    def _read(self, index: int) -> Page | None:
        """A page with text, or with nothing at all; None if it is rejected."""
        loaded = _load_page(self._document, index)
        if not loaded:
            self._rejected.append((index + 1, BROKEN, f"page {index + 1} cannot be read"))
            return None
        try:
            page = read_page(loaded)
        finally:
            pdfium.FPDF_ClosePage(loaded)
        if page.scanned:
            self._rejected.append((index + 1, SCANNED, OCR))
            return None
        if page.num_bad > _BAD_SHARE * page.num_characters:
            self._rejected.append((index + 1, GARBLED, _GARBLED))
            return None
        return page

    def _take(self, index: int, page: Page) -> None:
        self._runs.append(make_runs(page.words))
        self._heights.append(page.height)
        self._turned += [(index, text) for text in page.turned]

    def _prose(self) -> Prose:
        pages = without_furniture(self._runs, self._heights)
        self._runs = []
        regions: list[Region] = []
        for index, (runs, height) in enumerate(zip(pages, self._heights, strict=True)):
            regions += regions_of(index, runs, height)
        return write_prose(regions, _not_repeated(self._turned))


def _load_page(document: Any, index: int) -> Any:
    """A page, with what its form fields and text boxes show drawn on it."""
    page = pdfium.FPDF_LoadPage(document, index)
    if page and _has_written_notes(page) and pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY) == _FLATTENED:
        pdfium.FPDF_ClosePage(page)
        page = pdfium.FPDF_LoadPage(document, index)
    return page


def _has_written_notes(page: Any) -> bool:
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        note = pdfium.FPDFPage_GetAnnot(page, index)
        if note:
            kind = pdfium.FPDFAnnot_GetSubtype(note)
            pdfium.FPDFPage_CloseAnnot(note)
            if kind in (pdfium.FPDF_ANNOT_WIDGET, pdfium.FPDF_ANNOT_FREETEXT):
                return True
    return False


def _not_repeated(turned: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Texts in another direction, without those of several pages: watermarks, marks of a printer."""
    pages: dict[str, set[int]] = {}
    for page, text in turned:
        pages.setdefault(text, set()).add(page)
    return [(page, text) for page, text in turned if len(pages[text]) == 1]


if __name__ == "__main__":
    main()
