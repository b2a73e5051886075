"""The visible text of a page as lines with an outline.

Marks, made of control characters, are put at the blocks, headings, rows and cells of a tree. Then the text of the tree
has all that is needed to lay it out in lines. Marks are numbered, so that it can be said which of their texts to take.
"""

import re
from itertools import zip_longest

from selectolax.lexbor import LexborHTMLParser, LexborNode

from data.structure import PROSE, VERBATIM, Outliner

BLOCKS = (
    "address,article,aside,blockquote,center,dd,details,dialog,dir,div,dl,dt,fieldset,figcaption,figure,footer,form,"
    "header,hgroup,legend,li,main,menu,nav,ol,optgroup,option,p,search,section,select,summary,textarea,ul,td,th,caption"
)
PAGE = frozenset({"html", "body"})  # shown by a script if they are hidden
_UNSEEN = (
    "script,style,template,noscript,svg,iframe,object,head,noframes,rp,rt,audio,video,canvas,datalist,[hidden],"
    "[aria-hidden=true],pre.lineno,td.lineno,td.linenos,td.gutter,td.blob-num,.linenodiv"
)
_STYLED = "[style*=display i],[style*=visibility i]"
_INVISIBLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\s*(?:!|;|$)", re.I)
_CODE = "pre,listing,xmp"
_LINES_OF_CODE = "br,div,p,li,tr"
_NO_CODE = ".lineno,.linenos,.line-number,.line-numbers-rows,.gutter,button"
PROSE_NOTES = re.compile(
    r"(?:^|[\s_-])(?:note|tip|hint|warning|caution|danger|important|info|example|footnote)s?(?:$|[\s_-])"
)
_BOXES = frozenset({"aside", "blockquote"})
_NO_DATA = "pre,listing,xmp,h1,h2,h3,h4,h5,h6,form,section,article,hr"
LONGEST_CELL = 1000  # characters; a table with longer cells divides a page into columns
_CELLS = frozenset({"td", "th", "caption"})
_NAMED = "a[class],a[id],a[role],span[class],span[id],span[role]"
_FORMULA_IMAGES = "img[class*=math],img[class*=latex],img[class*=tex],img[class*=formula],img[class*=equation]"
_TEX_STYLE = re.compile(r"^\{\\(?:displaystyle|textstyle)\s*(.*)\}$", re.S)
# A mark has a kind, a number and an end, and stands before what it marks: "." a block or what follows one, "1" to "6"
# a heading, "h" what follows it, "T" a table, "R" its rows' first cells, "C" the others, "t" what follows it, "P" code,
# "i" words within a line that have a name.
_MARK, _END, _LINE, _SPACE, _TAB = "\x01", "\x02", "\x03", "\x04", "\x05"
_MARKED = re.compile(f"{_MARK}([.1-6hTRCtPi])([0-9]+){_END}([^{_MARK}]*)")
_ENDS = ".ht"
_KEPT = str.maketrans({"\n": _LINE, " ": _SPACE, "\xa0": _SPACE, "\t": _TAB})
_RESTORED = str.maketrans({_LINE: "\n", _SPACE: " ", _TAB: "\t"})
_DROPPED = str.maketrans("", "", "".join(map(chr, (*range(9), 11, *range(14, 32), *range(127, 160), 0xAD))))

Block = tuple[str, int]


def remove_unseen(tree: LexborHTMLParser) -> None:
    """Remove what a reader does not see; formulas become text."""
    # From the end: what is in an element is removed before the element.
    for script in reversed(tree.css("script[type^='math/tex']")):
        script.replace_with(script.text())
    for formula in reversed(tree.css("span.mwe-math-element,div.mwe-math-element")):  # hidden MathML beside an image
        if math := formula.css_first("math"):
            formula.replace_with(_formula(math))
    for math in reversed(tree.css("math")):
        math.replace_with(_formula(math))
    for node in reversed(tree.css(_UNSEEN)):
        if node.tag not in PAGE:
            node.decompose()
    for node in reversed(tree.css(_STYLED)):
        if node.tag not in PAGE and _INVISIBLE.search(node.attributes.get("style") or ""):
            node.decompose()
    for image in tree.css(_FORMULA_IMAGES):
        if alt := image.attributes.get("alt"):
            image.replace_with(_tex(alt))
    for quote in tree.css("q"):
        quote.insert_before("“")
        quote.insert_after("”")


def mark_blocks(tree: LexborHTMLParser, body: LexborNode) -> None:
    """Put marks at the blocks of a tree, once; `lay_out` reads them in its text."""
    _Marker().mark(tree, body)


def marks_in(text: str) -> frozenset[int]:
    """The numbers of the marks that a text has."""
    return frozenset(int(mark[2]) for mark in _MARKED.finditer(text))


def lay_out(marked: str, taken: frozenset[int] | None = None) -> Outliner:
    """The lines of a text with marks: one for each block, heading and row; code with its own lines.

    With `taken`, only what stands after the marks of these numbers.
    """
    lines, layout = Outliner(), _Layout()
    for mark in _MARKED.finditer(marked):
        kind, is_taken = mark[1], taken is None or int(mark[2]) in taken
        if is_taken or kind in _ENDS:
            for block in layout.read(kind, mark[3] if is_taken else ""):
                lines.add(*block)
    for block in layout.end():
        lines.add(*block)
    return lines


def squeezed(text: str) -> str:
    """White space as single spaces: line ends of the source are spaces to a reader. Soft hyphens and controls go."""
    return " ".join(text.translate(_DROPPED).split())


def count_visible(text: str) -> int:
    """Characters that are not white space."""
    return sum(map(len, text.split()))


class _Marker:
    """Numbers the marks.

    None stands between the cells of a table: a parser that reads the tree again would move it out of the table.
    """

    def __init__(self) -> None:
        self._count = 0

    def mark(self, tree: LexborHTMLParser, body: LexborNode) -> None:
        """Put marks at all that has them."""
        self._begin(body, ".")
        for table in tree.css("table"):
            self._mark_table(table)
        for code in reversed(tree.css(_CODE)):
            code.replace_with(f"{self._mark('P')}{_code(code)}{self._mark('.')}")
        for node in tree.css("br,hr"):
            node.insert_before(self._mark("."))
        for node in tree.css("h1,h2,h3,h4,h5,h6"):
            self._begin(node, "." if _is_in_note(node) else str(node.tag)[1])
            node.insert_after(self._mark("." if _is_in_note(node) else "h"))
        for node in tree.css(BLOCKS):
            self._begin(node, ".")
            if node.tag not in _CELLS:
                node.insert_after(self._mark("."))
        for node in tree.css(_NAMED):
            self._begin(node, "i")
            node.insert_after(self._mark("i"))

    def _mark(self, kind: str) -> str:
        self._count += 1
        return f"{_MARK}{kind}{self._count}{_END}"

    def _begin(self, node: LexborNode, kind: str) -> None:
        if first := node.first_child:
            first.insert_before(self._mark(kind))
        else:
            node.insert_child(self._mark(kind))

    def _mark_table(self, table: LexborNode) -> None:
        if _is_data(table):
            for caption in reversed(table.css("caption")):
                table.insert_before(f"{self._mark('.')}{caption.text()}")
                caption.decompose()
            for row in table.css("tr"):
                for number, cell in enumerate(row.css("td,th")):
                    self._begin(cell, "C" if number else "R")
            table.insert_before(self._mark("T"))
        table.insert_after(self._mark("t"))


def _is_in_note(heading: LexborNode) -> bool:
    """Whether it heads a box, such as "Tip": what follows the box is not below it."""
    box = heading.parent
    return box is not None and (box.tag in _BOXES or bool(PROSE_NOTES.search(box.attributes.get("class") or "")))


class _Layout:
    """Reads marks and the texts after them, and says which blocks are complete."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._kind = PROSE
        self._rows: list[list[str]] | None = None

    def read(self, kind: str, text: str) -> list[Block]:
        """The blocks that end at a mark of this kind, which the text follows."""
        if self._rows is not None and kind != "t":
            self._read_cell(self._rows, kind, text)
            return []
        if kind == "i" or (kind == "." and self._kind != PROSE):
            self._text += [text] if kind == "i" else [" ", text]
            return []
        done = self.end()
        if kind == "P":
            code = text.translate(_RESTORED).translate(_DROPPED)
            return [*done, (code, VERBATIM)] if code.strip() else done
        self._rows = [] if kind == "T" else None
        self._kind = int(kind) if kind.isdigit() else PROSE
        self._text.append(text)
        return done

    def end(self) -> list[Block]:
        """What is left when the text ends."""
        if self._rows is not None:
            block, kind = lay_out_rows(self._rows), VERBATIM
        else:
            block, kind = squeezed("".join(self._text)), self._kind
        self._text, self._kind, self._rows = [], PROSE, None
        return [(block, kind)] if block else []

    def _read_cell(self, rows: list[list[str]], kind: str, text: str) -> None:
        if kind == "R" or (kind == "C" and not rows):
            rows.append([text])
        elif kind == "C":
            rows[-1].append(text)
        elif rows:
            rows[-1][-1] += text if kind == "i" else f" {text}"


def lay_out_rows(rows: list[list[str]]) -> str:
    """A line for each row, columns that are empty in all rows left out."""
    cells = [[squeezed(cell) for cell in row] for row in rows]
    used = [any(column) for column in zip_longest(*cells, fillvalue="")]
    lines = (" | ".join(cell for cell, is_used in zip(row, used, strict=False) if is_used) for row in cells)
    return "\n".join(line for line in lines if line.strip(" |"))


def _code(node: LexborNode) -> str:
    """The text of preformatted code, its white space as characters that survive until `lay_out` restores them."""
    for number in reversed(node.css(_NO_CODE)):
        number.decompose()
    for line in node.css(_LINES_OF_CODE):
        if line.tag == "br":
            line.insert_before("\n")
        else:
            line.insert_after("\n")
    return node.text().replace("\r\n", "\n").strip("\n").translate(_KEPT)


def _is_data(table: LexborNode) -> bool:
    """Whether a table has rows of data, and does not just divide a page into columns."""
    holds_others = len(table.css("table")) > 1  # it finds itself too
    if holds_others or table.css_first(_NO_DATA) or table.attributes.get("role") in {"presentation", "none"}:
        return False
    rows = [len(row.css("td,th")) for row in table.css("tr")]
    return max(rows, default=0) > 1 and all(len(cell.text()) <= LONGEST_CELL for cell in table.css("td,th"))


def _formula(math: LexborNode) -> str:
    """A formula as TeX, where the page has that, or as the characters of its symbols."""
    if written := math.attributes.get("alttext"):
        return _tex(written)
    for note in reversed(math.css("annotation,annotation-xml")):
        if "tex" in (note.attributes.get("encoding") or "").lower():
            return _tex(note.text())
        note.decompose()
    return "".join(math.text().split())


def _tex(formula: str) -> str:
    found = _TEX_STYLE.match(formula.strip())
    return found[1].strip() if found else formula.strip()
