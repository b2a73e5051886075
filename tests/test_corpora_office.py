"""Office documents, books, messages and source files: what their reader sees becomes a document, the rest is told."""

import gzip
import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_corpora import load, rejected, texts_in

from data.corpora.sources import find_sources, list_others
from data.errors import InputError
from data.records import Document
from data.store import read_folder
from data.structure import VERBATIM, marks_of

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
MORE = (
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml"'
)
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
SLIDE = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    f'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="{RELATED}" '
    'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram"'
)
ODF = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("style", "style"),
        ("presentation", "presentation"),
    )
)
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def write_zip(path: Path, parts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return path


def relations(**parts: str) -> str:
    """The relations of a part: the id of each is its kind."""
    inner = "".join(
        f'<Relationship Id="{kind}" Type="{RELATED}/{kind.rstrip("0123456789")}" Target="{target}"/>'
        for kind, target in parts.items()
    )
    return f'<Relationships xmlns="{PACKAGE}">{inner}</Relationships>'


def write_docx(path: Path, body: str, *, styles: str = "", notes: str = "", **more: str) -> Path:
    parts = {
        "_rels/.rels": relations(officeDocument="word/document.xml", **{"core-properties": "docProps/core.xml"}),
        "word/_rels/document.xml.rels": relations(styles="styles.xml", footnotes="/word/footnotes.xml"),
        "word/styles.xml": f"<w:styles {W}>{styles}</w:styles>",
        "word/footnotes.xml": f"<w:footnotes {W}>{notes}</w:footnotes>",
        "word/document.xml": f"<w:document {W} {MORE}><w:body>{body}<w:sectPr/></w:body></w:document>",
    }
    return write_zip(path, parts | more)


def paragraph(text: str, style: str = "", more: str = "") -> str:
    return f'<w:p><w:pPr><w:pStyle w:val="{style}"/>{more}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'


def style(name: str, shown: str, more: str = "") -> str:
    return f'<w:style w:type="paragraph" w:styleId="{name}"><w:name w:val="{shown}"/>{more}</w:style>'


def write_odt(path: Path, body: str, *, styles: str = "", kind: str = "text", **more: str) -> Path:
    content = (
        f"<office:document-content {ODF} {XLINK}><office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    return write_zip(path, {"mimetype": "application/vnd.oasis.opendocument", "content.xml": content} | more)


def write_pptx(path: Path, slides: list[str], **more: str) -> Path:
    """Slides are stored in the reverse of their order."""
    names = {f"slide{number}": f"slides/slide{len(slides) - number}.xml" for number in range(len(slides))}
    listed = "".join(f'<p:sldId id="{number + 256}" r:id="slide{number}"/>' for number in range(len(slides)))
    parts = {
        "_rels/.rels": relations(officeDocument="ppt/presentation.xml"),
        "ppt/_rels/presentation.xml.rels": relations(**names),
        "ppt/presentation.xml": f"<p:presentation {SLIDE}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
    }
    for number, shapes in enumerate(slides):
        parts[f"ppt/{names[f'slide{number}']}"] = slide(shapes)
    return write_zip(path, parts | more)


def slide(shapes: str, tag: str = "sld") -> str:
    return f"<p:{tag} {SLIDE}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:{tag}>"


def shape(text: str, role: str = "", more: str = "") -> str:
    ph = f'<p:ph type="{role}"/>' if role else ""
    lines = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="1" name="x" {more}/><p:nvPr>{ph}</p:nvPr></p:nvSpPr>'
        f"<p:txBody>{lines}</p:txBody></p:sp>"
    )


def write_epub(path: Path, chapters: dict[str, str], *, more_items: str = "", **more: str) -> Path:
    items = "".join(
        f'<item id="i{number}" href="{name}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="i{number}"/>' for number in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>The book</dc:title></metadata><manifest>{items}{more_items}</manifest><spine>{spine}</spine>"
        '<guide><reference type="toc" href="toc.xhtml"/></guide></package>'
    )
    parts = {
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": package,
    }
    pages = {f"OPS/{name.partition('#')[0]}": page(content) for name, content in chapters.items()}
    return write_zip(path, parts | pages | more)


def page(content: str) -> str:
    return f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{content}</body></html>'


def documents_in(out: Path) -> list[Document]:
    return list(read_folder(out / "documents", Document))


def marked(document: Document) -> list[tuple[int, str]]:
    return [(kind, document.text[start:end]) for kind, start, end in marks_of(document.outline)]


def only(path: Path, **flags: object) -> Document:
    load(path, path.parent / f"{path.name}-out", **flags)
    (document,) = documents_in(path.parent / f"{path.name}-out")
    return document


def reasons(path: Path) -> list[str]:
    """Why a file is rejected, of which nothing comes through."""
    out = path.parent / f"{path.name}-out"
    with pytest.raises(InputError, match="nothing usable"):
        load(path, out)
    return [reason for _, _, reason in rejected(out)]


def test_headings_of_word_are_known_by_their_styles(tmp_path: Path) -> None:
    styles = (
        style("Titel", "Title")
        + style("berschrift1", "heading 1")
        + style("Mine", "My style", '<w:basedOn w:val="berschrift1"/>')
        + style("Level", "Clause", '<w:pPr><w:outlineLvl w:val="2"/></w:pPr>')
        + style("toc1", "toc 1")
        + style("Quelltext", "Source Code")
    )
    body = (
        paragraph("Otters", "Titel")
        + paragraph("Contents .... 3", "toc1")
        + paragraph("Food", "berschrift1")
        + paragraph("They eat fish.")
        + paragraph("Size", "Mine")
        + paragraph("Weight", "Level")
        + paragraph("def f(x):", "Quelltext")
        + '<w:p><w:pPr><w:pStyle w:val="Quelltext"/></w:pPr></w:p>'
        + paragraph("    return 1", "Quelltext")
        + paragraph("Age", "", '<w:outlineLvl w:val="1"/>')
        + paragraph("No heading", "Level", '<w:outlineLvl w:val="9"/>')
    )
    document = only(write_docx(tmp_path / "a.docx", body, styles=styles))
    assert document.heading == "Otters"
    assert marked(document) == [
        (1, "Otters"),
        (1, "Food"),
        (1, "Size"),
        (3, "Weight"),
        (VERBATIM, "def f(x):\n\n    return 1"),
        (2, "Age"),
    ]
    assert "Contents" not in document.text and "They eat fish." in document.text.splitlines()


def test_a_title_is_the_property_if_the_text_has_none(tmp_path: Path) -> None:
    core = '<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>About otters</dc:title></c>'
    path = write_docx(tmp_path / "a.docx", paragraph("Text."), **{"docProps/core.xml": core})
    assert only(path).heading == "About otters"


def test_deletions_and_hidden_text_are_dropped_and_insertions_kept(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>The otter </w:t></w:r><w:del><w:r><w:delText>was </w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>is </w:t></w:r></w:ins><w:r><w:rPr><w:vanish/></w:rPr><w:t>not </w:t></w:r>"
        "<w:moveFrom><w:r><w:t>moved </w:t></w:r></w:moveFrom><w:moveTo><w:r><w:t>heavier</w:t></w:r></w:moveTo>"
        '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>.</w:t></w:r><w:r><w:commentReference w:id="1"/></w:r></w:p>'
        "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>One </w:t></w:r></w:p>" + paragraph("sentence.")
    )
    assert only(write_docx(tmp_path / "a.docx", body)).text == "The otter is heavier.\nOne sentence."


def test_notes_and_boxes_follow_their_paragraph_once(tmp_path: Path) -> None:
    box = f"<w:txbxContent>{paragraph('In a box.')}</w:txbxContent>"
    body = (
        '<w:p><w:r><w:t>First</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r><w:r><w:t> part.</w:t></w:r><w:r>'
        f'<mc:AlternateContent><mc:Choice Requires="wps">{box}</mc:Choice><mc:Fallback><w:pict><v:textbox>{box}'
        "</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>" + paragraph("Second part.")
    )
    again = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    notes = (
        '<w:footnote w:type="separator" w:id="0"><w:p><w:r><w:t>no</w:t></w:r></w:p></w:footnote>'
        f'<w:footnote w:id="2"><w:p><w:r><w:t>A note.</w:t></w:r>{again}</w:p></w:footnote>'
    )
    text = only(write_docx(tmp_path / "a.docx", body, notes=notes)).text
    assert text == "First part.\nA note.\nIn a box.\nSecond part."


def test_a_drop_cap_belongs_to_its_paragraph(tmp_path: Path) -> None:
    frame = '<w:framePr w:dropCap="{}"/>'
    body = (
        paragraph("O", more=frame.format("drop")) + paragraph("tters.", more=frame.format("none")) + paragraph("Two.")
    )
    assert only(write_docx(tmp_path / "a.docx", body)).text == "Otters.\nTwo."


def test_signs_of_word_become_characters(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>soft\u00adhy</w:t><w:softHyphen/><w:t>phen, e</w:t><w:noBreakHyphen/><w:t>mail,</w:t><w:tab/>"
        '<w:t>tab</w:t><w:br/><w:t>line </w:t><w:sym w:font="Symbol" w:char="F061"/>'
        '<w:sym w:font="Wingdings" w:char="F0E0"/></w:r><w:r><w:fldChar w:fldCharType="begin"/></w:r>'
        "<w:r><w:instrText>REF x</w:instrText></w:r><w:r><w:t>, page 3</w:t></w:r></w:p>"
        "<w:p><w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent><w:r><w:t>Click here</w:t></w:r></w:sdtContent>"
        "</w:sdt><w:sdt><w:sdtContent><w:r><w:t>filled in</w:t></w:r></w:sdtContent></w:sdt></w:p>"
        "<w:p><w:ruby><w:rt><w:r><w:t>kan</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>漢</w:t></w:r></w:rubyBase></w:ruby></w:p>"
    )
    text = only(write_docx(tmp_path / "a.docx", body)).text
    assert text == "softhyphen, e-mail, tab\nline α, page 3\nfilled in\n漢"


def test_tables_of_word_are_read_row_by_row_and_frames_as_text(tmp_path: Path) -> None:
    def row(*cells: str) -> str:
        return "<w:tr>" + "".join(f"<w:tc>{cell}</w:tc>" for cell in cells) + "</w:tr>"

    first = row(paragraph("Name"), paragraph("Weight"))
    table = f"<w:tbl>{first}{row(paragraph('Otter'), paragraph('11') + paragraph('kg'))}"
    gone = f"<w:tr><w:trPr><w:del/></w:trPr><w:tc>{paragraph('gone')}</w:tc></w:tr>"
    frame = f"<w:tbl>{row(paragraph('A frame.') + paragraph('Two lines.'))}</w:tbl>"
    document = only(write_docx(tmp_path / "a.docx", f"{table}{gone}</w:tbl>{frame}"))
    assert document.text == "Name | Weight\nOtter | 11 kg\nA frame.\nTwo lines."
    assert marked(document) == [(VERBATIM, "Name | Weight\nOtter | 11 kg")]


def test_formulas_are_lines_of_text(tmp_path: Path) -> None:
    def run(text: str) -> str:
        return f"<m:r><m:t>{text}</m:t></m:r>"

    root = f"<m:rad><m:deg/><m:e>{run('b-4')}</m:e></m:rad>"
    power = f"<m:sSup><m:e>{run('x')}</m:e><m:sup>{run('2')}</m:sup></m:sSup>"
    fraction = f"<m:f><m:num>{run('a+')}{root}</m:num><m:den>{run('2a')}</m:den></m:f>"
    scripts = f"<m:sub>{run('i=1')}</m:sub><m:sup>{run('n')}</m:sup>"
    total = f'<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr>{scripts}<m:e>{power}</m:e></m:nary>'
    body = f"<w:p><w:r><w:t>So </w:t></w:r><m:oMath>{run('y=')}{fraction}{run('+')}{total}</m:oMath></w:p>"
    assert only(write_docx(tmp_path / "a.docx", body)).text == "So y=(a+√(b-4))/(2a)+∑_(i=1)^n x^2"


def test_strict_files_and_main_parts_of_other_names_are_read(tmp_path: Path) -> None:
    strict = 'xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"'
    parts = {
        "_rels/.rels": relations(officeDocument="word/document2.xml"),
        "word/document2.xml": f"<w:document {strict}><w:body>{paragraph('Strict.')}</w:body></w:document>",
    }
    assert only(write_zip(tmp_path / "a.docx", parts)).text == "Strict."


def test_texts_of_opendocument(tmp_path: Path) -> None:
    styles = (
        '<style:style style:name="P1" style:parent-style-name="Title"/>'
        '<style:style style:name="P2" style:parent-style-name="Preformatted_20_Text"/>'
        '<style:style style:name="T1"><style:text-properties text:display="none"/></style:style>'
    )
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>deleted</text:p></text:deletion>"
        '</text:changed-region></text:tracked-changes><text:p text:style-name="P1">Otters</text:p>'
        "<text:table-of-content><text:index-body><text:p>Food 3</text:p></text:index-body></text:table-of-content>"
        '<text:h text:outline-level="2">Food</text:h>'
        '<text:p>They  eat<text:s text:c="2"/>fi\u00adsh<text:span text:style-name="T1"> hidden</text:span>'
        "<office:annotation><text:p>a comment</text:p></office:annotation>"
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>A note.</text:p></text:note-body>"
        "</text:note>.<text:line-break/>Next</text:p>"
        "<text:list><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>two</text:p></text:list-item>"
        '</text:list></text:list-item></text:list><text:p text:style-name="P2">if x:</text:p>'
        '<text:p text:style-name="P2"><text:s text:c="4"/>y</text:p>'
        '<text:section text:display="none"><text:p>not shown</text:p></text:section>'
        "<table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table-header-rows>"
        "<table:table-row><table:table-cell><text:p>c</text:p></table:table-cell><table:table-cell><text:p>d</text:p>"
        "</table:table-cell></table:table-row></table:table>"
        "<text:p>Box<draw:frame><draw:text-box><text:p>In it.</text:p></draw:text-box></draw:frame></text:p>"
    )
    document = only(write_odt(tmp_path / "a.odt", body, styles=styles))
    assert document.heading == "Otters"
    assert document.text.splitlines() == [
        "Otters",
        "Food",
        "They eat fish.",
        "Next",
        "A note.",
        "one",
        "two",
        "if x:",
        "    y",
        "a | b",
        "c | d",
        "Box",
        "In it.",
    ]
    assert marked(document) == [(1, "Otters"), (2, "Food"), (VERBATIM, "if x:\n    y"), (VERBATIM, "a | b\nc | d")]


def test_formulas_of_opendocument_are_parts_of_their_own(tmp_path: Path) -> None:
    formula = (
        '<math xmlns="http://www.w3.org/1998/Math/MathML"><semantics><mrow><msub><mi>x</mi><mn>1</mn></msub><mo>=</mo>'
        "<mfrac><mn>1</mn><mi>n</mi></mfrac></mrow><annotation>x_1 = 1 over n</annotation></semantics></math>"
    )
    body = '<text:p>So <draw:frame><draw:object xlink:href="./Object 1"/></draw:frame>.</text:p>'
    path = write_odt(tmp_path / "a.odt", body, **{"Object 1/content.xml": formula})
    assert only(path).text == "So x_1=1/n."


def test_slides_are_read_in_their_order_with_their_notes(tmp_path: Path) -> None:
    cells = "<a:tr>" + "".join(
        f"<a:tc><a:txBody><a:p><a:r><a:t>{name}</a:t></a:r></a:p></a:txBody></a:tc>" for name in "ab"
    )

    def framed(content: str) -> str:
        return f"<p:graphicFrame><a:graphic><a:graphicData>{content}</a:graphicData></a:graphic></p:graphicFrame>"

    table, diagram = framed(f"<a:tbl>{cells}</a:tr></a:tbl>"), framed('<dgm:relIds r:dm="diagramData"/>')
    first = shape("Fish\nCrabs") + shape("7", "sldNum") + shape("unseen", more='hidden="1"') + shape("Food", "title")
    path = write_pptx(
        tmp_path / "a.pptx",
        [first, shape("The end", "ctrTitle") + f"<p:grpSp>{shape('Grouped')}</p:grpSp>{table}{diagram}"],
        **{
            "ppt/slides/_rels/slide2.xml.rels": relations(notesSlide="../notesSlides/notes1.xml"),
            "ppt/slides/_rels/slide1.xml.rels": relations(diagramData="../diagrams/data1.xml"),
            "ppt/notesSlides/notes1.xml": slide(shape("Say this.", "body") + shape("1", "sldNum"), "notes"),
            "ppt/diagrams/data1.xml": f"<dgm:dataModel {SLIDE}><dgm:pt><dgm:t><a:p><a:r><a:t>Step</a:t></a:r></a:p>"
            '</dgm:t></dgm:pt><dgm:pt type="pres"/></dgm:dataModel>',
        },
    )
    document = only(path)
    assert document.heading == "Food"
    assert document.text == "Food\nFish\nCrabs\nSay this.\n\nThe end\nGrouped\na | b\nStep"
    assert marked(document) == [(1, "Food"), (1, "The end"), (VERBATIM, "a | b")]


def test_a_slide_that_is_missing_costs_the_others_nothing(tmp_path: Path) -> None:
    path = write_pptx(
        tmp_path / "a.pptx", [shape("one"), shape("two"), shape("three")], **{"ppt/slides/slide2.xml": "<p"}
    )
    document = only(path)
    assert document.text == "one\n\nthree"
    assert rejected(tmp_path / "a.pptx-out") == [("a.pptx", 2, "broken document")]


def test_slides_of_opendocument(tmp_path: Path) -> None:
    body = (
        "<draw:page><draw:frame><draw:text-box><text:p>Fish</text:p></draw:text-box></draw:frame><draw:frame "
        'presentation:class="page-number"><draw:text-box><text:p>1</text:p></draw:text-box></draw:frame><draw:frame '
        'presentation:class="title"><draw:text-box><text:p>Food</text:p></draw:text-box></draw:frame><presentation:notes>'
        '<draw:frame presentation:class="notes"><draw:text-box><text:p>Say this.</text:p></draw:text-box></draw:frame>'
        "</presentation:notes></draw:page>"
    )
    document = only(write_odt(tmp_path / "a.odp", body, kind="presentation"))
    assert (document.heading, document.text) == ("Food", "Food\nFish\nSay this.")


def test_the_chapters_of_a_book_are_documents_in_the_order_of_reading(tmp_path: Path) -> None:
    links = "".join(f'<p><a href="b.xhtml#{n}">A chapter of the book, number {n}</a></p>' for n in range(30))
    path = write_epub(
        tmp_path / "a.epub",
        {
            "cover.xhtml": '<img src="x.png"/>',
            "toc.xhtml": f"<h1>Contents</h1>{links}",
            "b.xhtml": "<h1>Two</h1><p>First <a id='x'/>text.</p><pre>a\n  b</pre>",
            "missing.xhtml#x": "<p>No heading.</p>",
        },
    )
    load(path, tmp_path / "out")
    documents = documents_in(tmp_path / "out")
    assert [document.text for document in documents] == ["Two\nFirst text.\na\n  b", "No heading."]
    assert [document.heading for document in documents] == ["The book > Two", "The book"]
    assert marked(documents[0]) == [(1, "Two"), (VERBATIM, "a\n  b")]
    load(path, tmp_path / "chunks", chunk_tokens=8)
    assert {document.heading for document in documents_in(tmp_path / "chunks")} == {"The book > Two", "The book"}


def test_what_stands_beside_a_table_of_contents_is_kept(tmp_path: Path) -> None:
    links = "".join(f'<li><a href="b.xhtml#{n}">A chapter of the book, number {n}</a></li>' for n in range(60))
    text = "<p>This book is about otters. It was written for those who have never seen one, in the year 1999.</p>" * 4
    path = write_epub(
        tmp_path / "a.epub", {"toc.xhtml": f"<h1>Otters</h1>{text}<ul>{links}</ul>", "b.xhtml": "<p>Text."}
    )
    load(path, tmp_path / "out")
    front, chapter = texts_in(tmp_path / "out")
    assert "about otters" in front and "number 7" not in front and chapter == "Text."


def encryption(algorithm: str, *names: str) -> str:
    data = "".join(
        f'<e:EncryptedData><e:EncryptionMethod Algorithm="{algorithm}"/><e:CipherData><e:CipherReference URI="{name}"/>'
        "</e:CipherData></e:EncryptedData>"
        for name in names
    )
    return f'<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#">{data}</encryption>'


def test_protected_books_are_rejected_and_masked_fonts_are_no_protection(tmp_path: Path) -> None:
    chapters = {"a.xhtml": "<p>One.</p>", "b.xhtml": "<p>Two.</p>"}
    aes, mask = "http://www.w3.org/2001/04/xmlenc#aes128-cbc", "http://www.idpf.org/2008/embedding"
    whole = encryption(aes, "OPS/a.xhtml", "OPS/b.xhtml")
    assert reasons(write_epub(tmp_path / "a.epub", chapters, **{"META-INF/encryption.xml": whole})) == ["encrypted"]
    half = encryption(aes, "OPS/b.xhtml")
    assert only(write_epub(tmp_path / "b.epub", chapters, **{"META-INF/encryption.xml": half})).text == "One."
    assert rejected(tmp_path / "b.epub-out") == [("b.epub", 2, "encrypted")]
    fonts = encryption(mask, "OPS/a.xhtml")
    load(write_epub(tmp_path / "c.epub", chapters, **{"META-INF/encryption.xml": fonts}), tmp_path / "c")
    assert texts_in(tmp_path / "c") == ["One.", "Two."]


def test_a_chapter_that_is_missing_costs_the_others_nothing(tmp_path: Path) -> None:
    path = write_epub(tmp_path / "a.epub", {"a.xhtml": "<p>One.</p>", "b.xhtml": "<p>Two.</p>"})
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name).decode() for name in file.namelist() if not name.endswith("a.xhtml")}
    assert only(write_zip(path, parts)).text == "Two."
    assert rejected(tmp_path / "a.epub-out") == [("a.epub", 1, "broken document")]


def write_xlsx(path: Path, sheets: dict[str, str]) -> Path:
    x = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    listed = "".join(f'<sheet name="{name}" r:id="worksheet{number}"/>' for number, name in enumerate(sheets))
    parts = {
        "_rels/.rels": relations(officeDocument="xl/workbook.xml"),
        "xl/_rels/workbook.xml.rels": relations(
            sharedStrings="sharedStrings.xml", **{f"worksheet{n}": f"worksheets/{n}.xml" for n in range(len(sheets))}
        ),
        "xl/workbook.xml": f'<workbook {x} xmlns:r="{RELATED}"><sheets>{listed}</sheets></workbook>',
        "xl/sharedStrings.xml": f"<sst {x}><si><t>id</t></si><si><t>Text </t></si>"
        "<si><r><t>Rich </t></r><r><t>text_x000D_</t></r><rPh><t>no</t></rPh></si></sst>",
    }
    for number, rows in enumerate(sheets.values()):
        parts[f"xl/worksheets/{number}.xml"] = f"<worksheet {x}><sheetData>{rows}</sheetData></worksheet>"
    return write_zip(path, parts)


def test_rows_of_a_workbook_are_those_of_a_table(tmp_path: Path) -> None:
    names = '<row r="2"><c r="B2" t="s"><v>0</v></c><c r="D2" t="s"><v>1</v></c></row>'
    rows = (
        f'<row r="1"/>{names}<row r="3"><c r="B3"><v>7</v></c><c r="D3" t="s"><v>2</v></c></row>'
        '<row r="5"><c r="B5"><v>8</v></c><c r="D5" t="inlineStr"><is><t>Inline.</t></is></c></row>'
        '<row r="6"><c r="B6"><v>9</v></c><c r="D6" t="e"><v>#REF!</v></c></row>'
    )
    other = '<row r="1"><c r="A1" t="str"><v>number</v></c></row>'
    path = write_xlsx(tmp_path / "a.xlsx", {"One": rows, "Two": other, "Three": names})
    load(path, tmp_path / "out", id_column="id")
    assert {document.doc_id: document.text for document in documents_in(tmp_path / "out")} == {
        "7": "Rich text",
        "8": "Inline.",
    }
    found = [("a.xlsx", 6, "empty"), ("a.xlsx", 1, "missing column"), ("a.xlsx", 2, "empty")]
    assert sorted(rejected(tmp_path / "out")) == sorted(found)


def test_rows_of_an_opendocument_workbook(tmp_path: Path) -> None:
    def row(*cells: str, more: str = "") -> str:
        inner = "".join(f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>" for cell in cells)
        return f"<table:table-row {more}>{inner}</table:table-row>"

    gap = '<table:table-row table:number-rows-repeated="1000000"><table:table-cell/></table:table-row>'
    body = f"<table:table>{row('id', 'text')}{row('1', 'One.')}{gap}{row('2', 'Two.')}</table:table><table:table/>"
    path = write_odt(tmp_path / "a.ods", body, kind="spreadsheet")
    load(path, tmp_path / "out", id_column="id")
    assert [(document.doc_id, document.text) for document in documents_in(tmp_path / "out")] == [
        ("1", "One."),
        ("2", "Two."),
    ]


def test_a_message_is_its_subject_and_its_text(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "Über die Otter", "ada@example.org"
    message.set_content("Größe: 11 kg.\r\n", charset="latin-1", cte="quoted-printable")
    message.add_alternative("<p>A page</p>", subtype="html")
    message.add_attachment(b"\0\1", maintype="application", subtype="pdf", filename="otters.pdf")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    document = only(tmp_path / "a.eml")
    assert (document.heading, document.text) == ("Über die Otter", "Größe: 11 kg.")
    assert rejected(tmp_path / "a.eml-out") == [("a.eml", 0, "attachment")]


def test_a_message_in_html_is_read_as_a_page(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "Otters"
    message.set_content("<h1>Food</h1><p>Fish &amp; crabs.</p>", subtype="html")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    document = only(tmp_path / "a.eml")
    assert document.text == "Food\nFish & crabs." and marked(document) == [(1, "Food")]


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("iso-8859-1", b"\x93Otters\x94 \x96 heavy", "“Otters” – heavy"),
        ("us-ascii", "Größe".encode(), "Größe"),
        ("iso-2022-jp", "獺は重い".encode("iso-2022-jp"), "獺は重い"),
        ("gb2312", "朱镕基".encode("gbk"), "朱镕基"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_charsets_of_messages_are_those_of_the_web(
    tmp_path: Path, charset: str, body: bytes, text: str, kind: str
) -> None:
    head = f"Subject: x\nContent-Type: text/{kind}; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n"
    (tmp_path / "a.eml").write_bytes(head.encode() + body)
    assert only(tmp_path / "a.eml").text == text


@pytest.mark.parametrize(
    "content",
    [
        b"no headers at all",
        b"Subject: x\nContent-Type: text/plain; charset=nonsense\n\ntext",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b",
        b"Subject: =?utf-8?b?\xff\xfe?=\n\n\xff",
        b"Content-Type: text/html\n\n" + b"<div>" * 1000,
    ],
)
def test_half_a_message_breaks_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.eml").write_bytes(content)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out")[-1] == "good"
    assert len(texts_in(tmp_path / "out")) + len(rejected(tmp_path / "out")) == 2


def test_source_files_are_read_if_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("def f():\n    return 1\n")
    (tmp_path / "src" / "b.txt").write_text("good")
    (tmp_path / "src" / "c.png").write_bytes(b"\x89PNG")
    load(tmp_path / "src", tmp_path / "out", code=True)
    code, text = documents_in(tmp_path / "out")
    assert (code.heading, code.text.rstrip()) == ("a.py", "def f():\n    return 1")
    assert [kind for kind, _ in marked(code)] == [VERBATIM] and text.text == "good"
    load(tmp_path / "src", tmp_path / "without")
    assert texts_in(tmp_path / "without") == ["good"] and not rejected(tmp_path / "without")
    found = find_sources([str(tmp_path / "src")], out=tmp_path / "x")
    assert list_others(found.others) == "2 files of other kinds: 1 .png, 1 .py (--code reads source files)"
    with pytest.raises(InputError) as caught:
        load(tmp_path / "src" / "a.py", tmp_path / "named")
    assert "--code" in caught.value.where


@pytest.mark.parametrize("name", ["a.rst", "a.adoc", "a.org"])
def test_other_light_markup_is_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Otters\n======\n\nThey eat fish.\n")
    assert only(tmp_path / name).text.startswith("Otters\n======")


@pytest.mark.parametrize(
    ("name", "hint"), [("a.doc", ".docx"), ("a.xls", ".xlsx"), ("a.PPT", ".pptx"), ("a.rtf", ".docx")]
)
def test_old_formats_are_rejected_with_what_to_do(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert rejected(tmp_path / "out") == [(name, 0, "convert first")]
    assert f"save it as {hint}" in (tmp_path / "out" / "rejected" / "rows.jsonl").read_text()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"plain text", "broken document"),
        (b"{\\rtf1 text}", "broken document"),
        (OLE + "WordDocument".encode("utf-16-le"), "broken document"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (b"PK\x03\x04 cut off", "broken document"),
        (b"\x1f\x8b\x08" + b"x" * 30, "broken document"),
    ],
)
@pytest.mark.parametrize("name", ["a.docx", "a.odt", "a.epub", "a.pptx", "a.xlsx"])
def test_files_of_other_content_are_rejected_for_what_they_are(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert rejected(tmp_path / "out") == [(name, 0, reason)] and texts_in(tmp_path / "out") == ["good"]


def test_files_with_a_password_are_encrypted(tmp_path: Path) -> None:
    manifest = '<manifest:manifest xmlns:manifest="x"><manifest:encryption-data/></manifest:manifest>'
    path = write_odt(tmp_path / "a.odt", "<text:p>x</text:p>", **{"META-INF/manifest.xml": manifest})
    assert reasons(path) == ["encrypted"]
    whole = bytearray(write_docx(tmp_path / "b.docx", paragraph("x")).read_bytes())
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        starts = [info.header_offset for info in file.infolist()]
    for start in starts:
        whole[start + 6] |= 1
    place = whole.find(b"PK\x01\x02")
    while place >= 0:
        whole[place + 8] |= 1
        place = whole.find(b"PK\x01\x02", place + 4)
    (tmp_path / "b.docx").write_bytes(whole)
    assert reasons(tmp_path / "b.docx") == ["encrypted"]


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE d [<!ENTITY b SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE d [<!ENTITY % p SYSTEM "http://localhost:1/x"> %p; <!ENTITY b "">]>',
    ],
)
def test_entities_are_refused(tmp_path: Path, declared: str) -> None:
    content = f"{declared}<w:document {W}><w:body>{paragraph('&b;')}</w:body></w:document>"
    assert reasons(write_docx(tmp_path / "a.docx", "", **{"word/document.xml": content})) == ["broken document"]


def test_a_document_type_alone_is_no_fault(tmp_path: Path) -> None:
    content = f'<!DOCTYPE d SYSTEM "no.dtd"><w:document {W}><w:body>{paragraph("Text.")}</w:body></w:document>'
    assert only(write_docx(tmp_path / "a.docx", "", **{"word/document.xml": content})).text == "Text."


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<w:tbl>" * 100_000, "broken document"),
        ("<w:p>" + "<w:r/>" * 1_100_000, "too long"),
        ("<w:p><w:r><w:t>" + "x" * (9 << 20), "too long"),
        (paragraph("x" * 1000) * 1100, "too long"),
    ],
)
def test_bombs_are_rejected_in_bounded_memory(tmp_path: Path, body: str, reason: str) -> None:
    write_docx(tmp_path / "a.docx", body)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out", max_bytes=1 << 20)
    assert rejected(tmp_path / "out") == [("a.docx", 0, reason)] and texts_in(tmp_path / "out") == ["good"]


def test_an_endless_list_of_parts_is_rejected(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.docx", {f"part{number}": "" for number in range(25_000)})
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out", max_bytes=1 << 20)
    assert rejected(tmp_path / "out") == [("a.docx", 0, "too long")]


def test_a_compressed_office_document_says_what_to_do_and_a_message_is_read(tmp_path: Path) -> None:
    whole = write_docx(tmp_path / "a.docx", paragraph("Otters swim.")).read_bytes()
    (tmp_path / "b.docx.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "b.eml.gz").write_bytes(gzip.compress(b"Subject: Stoats\n\nStoats run."))
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Otters swim.", "Stoats run."]
    assert rejected(tmp_path / "out") == [("b.docx.gz", 0, "archive")]


SAMPLES = {
    "docx": lambda path: write_docx(path, paragraph("The otter is heavier.", "Heading1")),
    "odt": lambda path: write_odt(path, "<text:p>The otter is heavier.</text:p>"),
    "pptx": lambda path: write_pptx(path, [shape("The otter", "title"), shape("is heavier.")]),
    "epub": lambda path: write_epub(path, {"a.xhtml": "<p>The otter</p>", "b.xhtml": "<p>is heavier.</p>"}),
    "xlsx": lambda path: write_xlsx(
        path, {"One": '<row r="1"><c t="s"><v>1</v></c></row><row><c t="s"><v>2</v></c></row>'}
    ),
}
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8)), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", SAMPLES)
@given(edits=EDITS, choice=st.integers(-1, 20))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_is_told_and_costs_no_neighbour(
    tmp_path_factory: pytest.TempPathFactory, kind: str, edits: list[tuple[float, int, bytes]], choice: int
) -> None:
    """Bytes of the file, or of one of its parts, are cut out and others are put in."""
    folder = tmp_path_factory.mktemp("damage")
    path = SAMPLES[kind](folder / f"a.{kind}")
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = list(parts)[choice % len(parts)]
    content = path.read_bytes() if choice < 0 else parts[name]
    for share, size, added in edits:
        place = int(share * len(content))
        content = content[:place] + added + content[place + size :]
    if choice < 0:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            for part, whole in parts.items():
                file.writestr(part, content if part == name else whole)
    (folder / "b.txt").write_text("good")
    load(folder, folder / "out")
    texts = texts_in(folder / "out")
    assert "good" in texts and (len(texts) > 1 or rejected(folder / "out"))
