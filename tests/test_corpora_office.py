"""Office documents, books, messages and source files: what their reader sees; what is broken is rejected."""

import gzip
import random
import zipfile
from pathlib import Path

import pytest
from test_corpora import load, rejected, texts_in

from data.corpora.importer import DOCUMENTS, import_corpus
from data.corpora.reading import ImportSettings
from data.corpora.sources import find_sources
from data.errors import InputError
from data.records import Document
from data.store import read_folder
from data.structure import VERBATIM, marks_of

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
SHOW = "http://schemas.openxmlformats.org/presentationml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MATH = "http://schemas.openxmlformats.org/officeDocument/2006/math"
CHOICE = "http://schemas.openxmlformats.org/markup-compatibility/2006"
ODF = "urn:oasis:names:tc:opendocument:xmlns"

Parts = dict[str, str | bytes]


def zipped(path: Path, parts: Parts) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return path


def relations(*found: tuple[str, str, str]) -> str:
    lines = "".join(f'<Relationship Id="{key}" Type="{LINKS}/{kind}" Target="{to}"/>' for key, kind, to in found)
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{lines}</Relationships>'
    )


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def table(*rows: tuple[str, ...]) -> str:
    cells = ("".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def docx(body: str, **parts: str | bytes) -> Parts:
    space = f'xmlns:w="{WORD}" xmlns:m="{MATH}" xmlns:mc="{CHOICE}"'
    return {
        "_rels/.rels": relations(("a", "officeDocument", "word/document.xml")),
        "word/_rels/document.xml.rels": relations(("n", "footnotes", "footnotes.xml"), ("s", "styles", "styles.xml")),
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        **{name.replace("__", "/") + ".xml": content for name, content in parts.items()},
    }


def documents(path: Path, out: Path, **settings: object) -> list[Document]:
    chosen = ImportSettings(**settings)  # type: ignore[arg-type]
    import_corpus(find_sources([str(path)], out=out, code=chosen.code), out, chosen)
    return list(read_folder(out / DOCUMENTS, Document))


BODY = (
    paragraph("Otters", "Title")
    + paragraph("What they eat", "berschrift1")
    + "<w:p><w:r><w:t>They eat </w:t></w:r><w:del><w:r><w:delText>meat</w:delText></w:r></w:del>"
    + "<w:ins><w:r><w:t>fish</w:t></w:r></w:ins><w:r><w:rPr><w:vanish/></w:rPr><w:t> secretly</w:t></w:r>"
    + '<w:r><w:footnoteReference w:id="2"/></w:r><w:r><w:t>.</w:t></w:r></w:p>'
    + table(("Name", "Weight"), ("Otter", "11"))
    + "<w:p><w:r><mc:AlternateContent><mc:Choice><w:t>Once.</w:t></mc:Choice><mc:Fallback><w:t>Once.</w:t>"
    + "</mc:Fallback></mc:AlternateContent></w:r></w:p><w:p><m:oMath><m:sSup><m:e><m:r><m:t>c</m:t></m:r></m:e><m:sup>"
    + "<m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath></w:p>"
    + paragraph("def f(x):", "SourceCode")
    + paragraph("    return x", "SourceCode").replace("<w:t>", '<w:t xml:space="preserve">')
)
STYLES = (
    f'<w:styles xmlns:w="{WORD}"><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="SourceCode"><w:name w:val="Source Code"/></w:style></w:styles>'
)
NOTES = f'<w:footnotes xmlns:w="{WORD}"><w:footnote w:id="2">{paragraph("In rivers.")}</w:footnote></w:footnotes>'


def test_a_word_document_is_what_its_reader_sees(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.docx", docx(BODY, word__styles=STYLES, word__footnotes=NOTES))
    (found,) = documents(path, tmp_path / "out")
    assert found.text.split("\n") == [
        *("Otters", "What they eat", "They eat fish.", "In rivers.", "Name | Weight", "Otter | 11"),
        *("Once.", "c^2", "def f(x):", "    return x"),
    ]
    marked = [(kind, found.text[start:end]) for kind, start, end in marks_of(found.outline)]
    assert marked == [
        (1, "Otters"),
        (1, "What they eat"),
        (VERBATIM, "Name | Weight\nOtter | 11"),
        (VERBATIM, "def f(x):\n    return x"),
    ]
    assert found.heading == "Otters"


def odt(body: str) -> Parts:
    spaces = " ".join(f'xmlns:{name}="{ODF}:{name}:1.0"' for name in ("office", "text", "table", "presentation"))
    spaces += f' xmlns:draw="{ODF}:drawing:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"'
    content = f"<office:document-content {spaces}><office:body>{body}</office:body></office:document-content>"
    return {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content}


def test_an_opendocument_text_is_what_its_reader_sees(tmp_path: Path) -> None:
    body = (
        '<office:text><text:h text:outline-level="2">Otters</text:h><text:p>They<text:s text:c="2"/>swim'
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Fast.</text:p></text:note-body></text:note>."
        "<office:annotation><text:p>Check!</text:p></office:annotation></text:p>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell>"
        "<text:p>b</text:p></table:table-cell></table:table-row></table:table></office:text>"
    )
    (found,) = documents(zipped(tmp_path / "a.odt", odt(body)), tmp_path / "out")
    assert found.text == "Otters\nThey swim.\nFast.\na | b"
    assert marks_of(found.outline)[0] == (2, 0, 6)


def shape(text: str, role: str) -> str:
    holder = f'<p:nvSpPr><p:cNvPr id="1" name=""/><p:nvPr><p:ph type="{role}"/></p:nvPr></p:nvSpPr>'
    return f"<p:sp>{holder}<p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"


def slide(name: str, *shapes: str) -> str:
    tree = f"<p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld>"
    return f'<p:{name} xmlns:p="{SHOW}" xmlns:a="{DRAWING}">{tree}</p:{name}>'


def test_slides_come_in_their_order_with_title_first_and_notes_last(tmp_path: Path) -> None:
    ids = '<p:sldIdLst><p:sldId id="1" r:id="b"/><p:sldId id="2" r:id="a"/></p:sldIdLst>'
    parts: Parts = {
        "_rels/.rels": relations(("x", "officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{SHOW}" xmlns:r="{LINKS}">{ids}</p:presentation>',
        "ppt/_rels/presentation.xml.rels": relations(
            ("a", "slide", "slides/one.xml"), ("b", "slide", "slides/two.xml")
        ),
        "ppt/slides/one.xml": slide("sld", shape("They swim.", "body"), shape("Food", "title"), shape("7", "sldNum")),
        "ppt/slides/two.xml": slide("sld", shape("Otters", "ctrTitle")),
        "ppt/slides/_rels/one.xml.rels": relations(("n", "notesSlide", "../notes/one.xml")),
        "ppt/notes/one.xml": slide("notes", shape("Say hello.", "body"), shape("3", "sldNum")),
    }
    (found,) = documents(zipped(tmp_path / "a.pptx", parts), tmp_path / "out")
    assert found.text == "Otters\n\nFood\nThey swim.\nSay hello."
    assert found.heading == "Otters"


def book(*chapters: str, encryption: str = "") -> Parts:
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(chapters))
    )
    order = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>'
        f'The Otter</dc:title></metadata><manifest>{items}<item id="nav" href="nav.xhtml" properties="nav" '
        f'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="nav"/>{order}</spine></package>'
    )
    container = f'<container xmlns="{ODF}:container"><rootfiles><rootfile full-path="O/b.opf"/></rootfiles></container>'
    return {
        "META-INF/container.xml": container,
        "O/b.opf": package,
        "O/nav.xhtml": "<html><body><p>Contents</p></body></html>",
        **{
            f"O/c{n}.xhtml": f"<html><head><title/></head><body>{text}</body></html>" for n, text in enumerate(chapters)
        },
        **({"META-INF/encryption.xml": encryption} if encryption else {}),
    }


def test_a_book_is_a_document_for_each_chapter_in_the_order_of_reading(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.epub", book("<h1>Last</h1><p>It swam.</p>", "<p>It ran.</p>"))
    found = documents(path, tmp_path / "out")
    assert [(each.heading, each.text) for each in found] == [
        ("The Otter", "It ran."),
        ("The Otter > Last", "Last\nIt swam."),
    ]


def test_chapters_under_drm_are_rejected_and_others_kept(tmp_path: Path) -> None:
    lock = (
        '<encryption><EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod Algorithm="aes"/>'
        '<CipherData><CipherReference URI="O/c0.xhtml"/></CipherData></EncryptedData></encryption>'
    )
    load(zipped(tmp_path / "a.epub", book("<p>Hidden.</p>", "<p>Free.</p>", encryption=lock)), tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Free."]
    assert rejected(tmp_path / "out") == [("a.epub", 2, "encrypted")]


def workbook() -> Parts:
    cell = '<c r="{}" t="inlineStr"><is><t>{}</t></is></c>'
    rows = [[("A1", "id"), ("B1", "text")], [("A2", "x"), ("B2", "Otters swim.")], [("B3", "Stoats run.")]]
    data = "".join(f"<row>{''.join(cell.format(*each) for each in row)}</row>" for row in rows)
    sheets = '<sheets><sheet name="S" r:id="a"/></sheets>'
    return {
        "_rels/.rels": relations(("x", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{LINKS}">{sheets}</workbook>',
        "xl/_rels/workbook.xml.rels": relations(("a", "worksheet", "s.xml")),
        "xl/s.xml": f'<worksheet xmlns="{SHEET}"><sheetData>{data}</sheetData></worksheet>',
    }


def test_the_rows_of_a_workbook_are_documents(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.xlsx", workbook())
    assert [each.text for each in documents(path, tmp_path / "out")] == ["Otters swim.", "Stoats run."]
    found = documents(path, tmp_path / "ids", id_column="id")
    assert [each.doc_id for each in found] == ["x"]
    assert rejected(tmp_path / "ids") == [("a.xlsx", 3, "missing id")]
    with pytest.raises(InputError, match="missing column"):
        documents(path, tmp_path / "other", text_column="body")
    body = (
        "<office:spreadsheet><table:table><table:table-row><table:table-cell><text:p>text</text:p></table:table-cell>"
        "</table:table-row><table:table-row><table:table-cell><text:p>Otters swim.</text:p></table:table-cell>"
        "</table:table-row></table:table></office:spreadsheet>"
    )
    (one,) = documents(zipped(tmp_path / "a.ods", odt(body)), tmp_path / "ods")
    assert one.text == "Otters swim."


def test_a_message_is_its_text_under_its_subject(tmp_path: Path) -> None:
    head = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    page = "--b\nContent-Type: text/html; charset=utf-8\n\n<p>Otters <b>swim</b>.</p>\n"
    attached = "--b\nContent-Type: image/png\nContent-Disposition: attachment; filename=otter.png\n\nx\n--b--\n"
    (tmp_path / "a.eml").write_text(head + page + attached)
    (found,) = documents(tmp_path / "a.eml", tmp_path / "out")
    assert (found.heading, found.text) == ("Grüße", "Otters swim.")
    assert rejected(tmp_path / "out") == [("a.eml", 0, "attachment")]


def test_source_files_are_texts_by_choice(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "f.py").write_text("def f(x):\n    return x\n")
    (folder / "a.txt").write_text("Otters swim.")
    found = find_sources([str(folder)], out=tmp_path / "out")
    assert [source.path.name for source in found.sources] == ["a.txt"] and found.others == {".py": 1}
    _, code = documents(folder, tmp_path / "code", code=True)
    assert (code.heading, code.text) == ("f.py", "def f(x):\n    return x")
    assert code.outline == (VERBATIM, 0, len(code.text))
    with pytest.raises(InputError, match="source file"):
        documents(folder / "f.py", tmp_path / "named")


def test_old_and_protected_files_say_what_to_do(tmp_path: Path) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    (tmp_path / "old.docx").write_bytes(ole)
    (tmp_path / "locked.docx").write_bytes(ole + "EncryptedPackage".encode("utf-16-le"))
    (tmp_path / "a.doc").write_bytes(ole)
    (tmp_path / "page.docx").write_text("<html>")
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert sorted((name, reason) for name, _, reason in rejected(tmp_path / "out")) == [
        ("a.doc", "convert first"),
        ("locked.docx", "encrypted"),
        ("old.docx", "broken document"),
        ("page.docx", "broken document"),
    ]


def test_bombs_and_entities_are_rejected(tmp_path: Path) -> None:
    laughs = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'
    body = docx(paragraph("&c;"))
    body["word/document.xml"] = laughs + str(body["word/document.xml"])
    zipped(tmp_path / "entity.docx", body)
    zipped(tmp_path / "bomb.docx", docx(paragraph("x" * (40 << 20))))
    zipped(tmp_path / "deep.docx", docx("<w:r>" * 5000 + "</w:r>" * 5000))
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out", max_bytes=1 << 20)
    assert texts_in(tmp_path / "out") == ["good"]
    assert sorted((name, reason) for name, _, reason in rejected(tmp_path / "out")) == [
        ("bomb.docx", "too long"),
        ("deep.docx", "broken document"),
        ("entity.docx", "broken document"),
    ]


@pytest.mark.parametrize("name", ["a.docx", "a.odt", "a.epub", "a.xlsx"])
def test_any_cut_or_change_is_reported_and_costs_no_neighbour(tmp_path: Path, name: str) -> None:
    made = {"a.docx": docx(BODY, word__styles=STYLES), "a.epub": book("<p>It ran.</p>"), "a.xlsx": workbook()}
    parts = made.get(name) or odt("<office:text><text:p>Otters swim.</text:p></office:text>")
    whole = zipped(tmp_path / name, parts).read_bytes()
    (tmp_path / name).unlink()
    draw = random.Random(name)
    for number in range(60):
        content = bytearray(whole[: draw.randrange(len(whole))] if number % 2 else whole)
        for _ in range(draw.randrange(1, 30) if content else 0):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / f"{number}-{name}").write_bytes(content)
    # Changes inside the XML of a sound zip file reach the readers.
    for number in range(60):
        broken: Parts = {}
        for part, content in parts.items():
            changed = bytearray(content.encode() if isinstance(content, str) else content)
            changed[draw.randrange(len(changed))] = draw.randrange(32, 127)
            broken[part] = bytes(changed)
        zipped(tmp_path / f"x{number}-{name}", broken)
    (tmp_path / "good.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert "good" in texts_in(tmp_path / "out")


def test_a_compressed_office_document_says_what_to_do_and_a_message_is_read(tmp_path: Path) -> None:
    content = zipped(tmp_path / "a.docx", docx(paragraph("Otters swim."))).read_bytes()
    (tmp_path / "b.docx.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.eml.gz").write_bytes(gzip.compress(b"Subject: Stoats\n\nStoats run."))
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Otters swim.", "Stoats run."]
    assert rejected(tmp_path / "out") == [("b.docx.gz", 0, "archive")]
