"""The visible text of a page as lines with an outline.

Marks (control characters, which no page has) are put at the blocks, headings, rows and cells of a tree. Then the text of
the tree, or of a part of it, has all that is needed to lay it out in lines.
"""

import re
from itertools import zip_longest

from selectolax.lexbor import LexborHTMLParser, LexborNode

from data.structure import PROSE, VERBATIM, Outliner

BLOCKS = (
    "address,article,aside,blockquote,center,dd,details,dialog,dir,div,dl,dt,fieldset,figcaption,figure,footer,"
    "form,h1,h2,h3,h4,h5,h6,header,hgroup,legend,li,main,menu,nav,ol,optgroup,option,p,pre,search,section,select,"
    "summary,table,textarea,ul"
)
_UNSEEN = (
    "script,style,template,noscript,svg,iframe,object,head,noframes,rp,rt,audio,video,canvas,[hidden],[aria-hidden=true]"
)
_STYLED = "[style*=display i],[style*=visibility i]"
_INVISIBLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\s*(?:!|;|$)", re.I)
_CODE = "pre,listing,xmp"
_LINES_OF_CODE = "br,div,p,li,tr"
_NO_CODE = ".lineno,.linenos,.linenodiv,.line-number,.line-numbers-rows,.gutter,.blob-num,button"
_NO_DATA = "table,pre,h1,h2,h3,h4,h5,h6,form,section,article,hr"
_LONGEST_CELL = 1000  # characters; a table with longer cells divides a page into columns
_FORMULA_IMAGES = "img[class*=math],img[class*=latex],img[class*=tex],img[class*=formula],img[class*=equation]"
_TEX_STYLE = re.compile(r"^\{\\(?:displaystyle|textstyle)\s*(.*)\}$", re.S)
# A mark is followed by what it marks: "." a block's edge, "1" to "6" and "h" a heading's begin and end, "T" and "t" those
# of a table, "R" and "C" the begin of a row and a cell, "P" code.
_MARK, _LINE, _SPACE, _TAB = "\x01", "\x02", "\x03", "\x04"
_KEPT = str.maketrans({"\n": _LINE, " ": _SPACE, "\t": _TAB})
_RESTORED = str.maketrans({_LINE: "\n", _SPACE: " ", _TAB: "\t"})
_DROPPED = str.maketrans("", "", "".join(map(chr, (*range(9), 11, *range(14, 32), *range(127, 160), 0xAD))))


def remove_unseen(tree: LexborHTMLParser) -> None:
    """Remove what a reader does not see; formulas become text."""
    for script in reversed(tree.css("script[type^='math/tex']")):
        script.replace_with(script.text())
    for formula in reversed(tree.css(".mwe-math-element")):  # hidden MathML beside an image
        if math := formula.css_first("math"):
            formula.replace_with(_formula(math))
    for math in reversed(tree.css("math")):
        math.replace_with(_formula(math))
    for node in reversed(tree.css(_UNSEEN)):
        node.decompose()
    for node in reversed(tree.css(_STYLED)):
        if _INVISIBLE.search(node.attributes.get("style") or ""):
            node.decompose()
    for image in tree.css(_FORMULA_IMAGES):
        if alt := image.attributes.get("alt"):
            image.replace_with(_tex(alt))
    for quote in tree.css("q"):
        quote.insert_before("“")
        quote.insert_after("”")


def mark_blocks(tree: LexborHTMLParser) -> None:
    """Put marks at the blocks of a tree; `lay_out` reads them in its text.

    No mark stands between the cells of a table: a parser that reads the tree again would move it out of the table.
    """
    for table in tree.css("table"):
        if _is_data(table):
            _mark_table(table)
    for node in reversed(tree.css(_CODE)):
        node.replace_with(f"{_MARK}P{_code(node)}{_MARK}.")
    for node in tree.css("h1,h2,h3,h4,h5,h6"):
        _enclose(node, str(node.tag)[1], "h")
    for node in tree.css("td,th,caption"):
        _enclose(node, ".", ".")
    for node in tree.css("br,hr"):
        node.insert_before(f"{_MARK}.")
    for node in tree.css(BLOCKS):
        node.insert_before(f"{_MARK}.")
        node.insert_after(f"{_MARK}.")


def lay_out(marked: str) -> Outliner:
    """The lines of a text with marks: a line for each block, heading and row; code with its own lines."""
    lines, layout = Outliner(), _Layout()
    for piece in f".{marked}".split(_MARK):
        for block, kind in layout.read(piece[:1], piece[1:]):
            lines.add(block, kind)
    for block, kind in layout.end():
        lines.add(block, kind)
    return lines


def squeezed(text: str) -> str:
    """White space as single spaces: line ends of the source are spaces to a reader. Soft hyphens and controls go."""
    return " ".join(text.translate(_DROPPED).split())


def count_visible(text: str) -> int:
    """Characters that are not white space."""
    return sum(map(len, text.split()))


Block = tuple[str, int]


class _Layout:
    """Reads marks and the texts between them, and says which blocks are complete."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._kind = PROSE
        self._rows: list[list[str]] | None = None

    def read(self, mark: str, text: str) -> list[Block]:
        """The blocks that end at this mark, which a text follows."""
        if self._rows is not None:
            return self._read_table(self._rows, mark, text)
        if mark == "." and self._kind != PROSE:
            self._words.append(text)
            return []
        done = self.end()
        if mark == "P":
            code = text.translate(_RESTORED).translate(_DROPPED)
            return [*done, (code, VERBATIM)] if code.strip() else done
        if mark == "T":
            self._rows = []
        elif mark.isdigit():
            self._kind = int(mark)
        self._words.append(text)
        return done

    def end(self) -> list[Block]:
        """What is left when the text ends."""
        if self._rows is not None:
            rows, self._rows = self._rows, None
            block, kind = _lay_out_rows(rows), VERBATIM
        else:
            block, kind = squeezed(" ".join(self._words)), self._kind
        self._words.clear()
        self._kind = PROSE
        return [(block, kind)] if block else []

    def _read_table(self, rows: list[list[str]], mark: str, text: str) -> list[Block]:
        if mark == "t":
            done = self.end()
            self._words.append(text)
            return done
        if mark == "R":
            rows.append([])
        elif mark == "C" and rows:
            rows[-1].append(text)
        elif rows and rows[-1]:
            rows[-1][-1] += f" {text}"
        return []


def _lay_out_rows(rows: list[list[str]]) -> str:
    """A line for each row, columns that are empty in all rows left out."""
    cells = [[squeezed(cell) for cell in row] for row in rows]
    used = [any(column) for column in zip_longest(*cells, fillvalue="")]
    lines = (" | ".join(cell for cell, is_used in zip(row, used, strict=False) if is_used) for row in cells)
    return "\n".join(line for line in lines if line.strip(" |"))


def _code(node: LexborNode) -> str:
    """The text of preformatted code, its white space kept until `lay_out` restores it."""
    for number in reversed(node.css(_NO_CODE)):
        number.decompose()
    for line in node.css(_LINES_OF_CODE):
        line.insert_before("\n") if line.tag == "br" else line.insert_after("\n")
    return node.text().replace("\r\n", "\n").strip("\n").translate(_KEPT)


def _is_data(table: LexborNode) -> bool:
    """Whether a table has rows of data, and does not just divide a page into columns."""
    if table.attributes.get("role") in {"presentation", "none"} or table.css_first(_NO_DATA):
        return False
    rows = [len(row.css("td,th")) for row in table.css("tr")]
    return max(rows, default=0) > 1 and all(len(cell.text()) <= _LONGEST_CELL for cell in table.css("td,th"))


def _mark_table(table: LexborNode) -> None:
    for caption in reversed(table.css("caption")):
        table.insert_before(f"{_MARK}.{caption.text()}")
        caption.decompose()
    for row in table.css("tr"):
        for number, cell in enumerate(row.css("td,th")):
            _begin(cell, "C" if number else f"R{_MARK}C")
    table.insert_before(f"{_MARK}T")
    table.insert_after(f"{_MARK}t")


def _enclose(node: LexborNode, begin: str, end: str) -> None:
    _begin(node, begin)
    node.insert_child(f"{_MARK}{end}")


def _begin(node: LexborNode, what: str) -> None:
    if first := node.first_child:
        first.insert_before(f"{_MARK}{what}")
    else:
        node.insert_child(f"{_MARK}{what}")


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
