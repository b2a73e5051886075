"""Kinds of files: what a reader of a page, a PDF or a table would read is what becomes a document."""

import zlib
from pathlib import Path

import pytest
from test_corpora import load, rejected, texts_in

HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def write_pdf(path: Path, pages: list[str], *, spoil: int = -1, font: bytes = HELVETICA) -> None:
    """A PDF of the plainest kind; the stream of page `spoil` is no sound compression."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", font]
    kids = []
    for number, page in enumerate(pages):
        moves = " ".join(f"({line}) Tj 0 -14 Td" for line in page.splitlines())
        stream = zlib.compress(f"BT /F1 12 Tf 72 720 Td {moves} ET".encode())
        stream = b"\x00" * len(stream) if number == spoil else stream
        head = b"<< /Length %d /Filter /FlateDecode >>" % len(stream)
        objects.append(head + b"\nstream\n" + stream + b"\nendstream")
        content = len(objects)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % content
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    write_objects(path, objects)


def write_objects(path: Path, objects: list[bytes]) -> None:
    """A PDF of these objects, the first of which is the catalog."""
    written, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    tail = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    path.write_bytes(written + tail % (size, table, size, len(written)))


def test_the_pages_of_a_pdf_are_one_document(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["Glon are exam-\nples of femp\nand troff.\nNew sentence.", "Second page."])
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Glon are examples of femp and troff.\nNew sentence.\n\nSecond page."]


def test_pdf_files_that_cannot_be_read_are_rejected(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["whole"])
    whole = (tmp_path / "a.pdf").read_bytes()
    (tmp_path / "b.pdf").write_bytes(whole[:60])
    (tmp_path / "c.pdf").write_bytes(b"no pdf")
    (tmp_path / "d.pdf").write_bytes(whole.replace(b"/Kids [5 0 R]", b"/Kids [2 0 R]"))
    write_pdf(tmp_path / "e.pdf", [""])
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["whole"]
    found = {name: reason for name, _, reason in rejected(tmp_path / "out")}
    assert set(found) == {"b.pdf", "c.pdf", "d.pdf", "e.pdf"} and found["e.pdf"] == "empty"
    assert found["b.pdf"] == found["c.pdf"] == "broken PDF"


@pytest.mark.parametrize("cut", range(0, 900, 37))
def test_any_cut_of_a_pdf_is_reported(tmp_path: Path, cut: int) -> None:
    write_pdf(tmp_path / "a.pdf", ["glon are femp", "femp are troff"])
    whole = (tmp_path / "a.pdf").read_bytes()
    (tmp_path / "a.pdf").write_bytes(whole[:cut] + whole[cut + 30 :])
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out")[-1] == "good"


def test_markdown_and_text_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"# Head\r\n\r\n* *one*\r\n")
    (tmp_path / "b.txt").write_text("two\n\nlines\n")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["# Head\n\n* *one*", "two\n\nlines"]


@pytest.mark.parametrize("delimiter", ",;\t|")
def test_the_delimiter_of_a_table_is_seen_from_its_names(tmp_path: Path, delimiter: str) -> None:
    lines = [["id", "text"], ["1", '"a, b;\n""c"""'], ["2", "short"]]
    (tmp_path / "a.csv").write_text("".join(delimiter.join(line) + "\r\n" for line in lines))
    load(tmp_path / "a.csv", tmp_path / "out", id_column="id")
    assert texts_in(tmp_path / "out") == ['a, b;\n"c"', "short"]


def test_broken_rows_of_a_table_are_reported_by_their_first_line(tmp_path: Path) -> None:
    content = b'text,n\n"two\nlines",1\n\n"a" b,2\nbad \xff,3\n"bad\n\xff",4\nonly\nlast,6\n"open\nto the end'
    (tmp_path / "a.csv").write_bytes(content)
    load(tmp_path / "a.csv", tmp_path / "out", id_column="n")
    assert texts_in(tmp_path / "out") == ["two\nlines", "last"]
    rows = [(5, "broken CSV"), (6, "not UTF-8"), (7, "not UTF-8"), (9, "broken CSV"), (11, "broken CSV")]
    assert [row[1:] for row in rejected(tmp_path / "out")] == rows


def test_a_row_with_other_fields_than_the_header_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\nHello, world,1\nwhole,2\ncut\n")
    load(tmp_path / "a.csv", tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["whole"]
    assert [row[1:] for row in rejected(tmp_path / "out")] == [(2, "broken CSV"), (4, "broken CSV")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "n,text\n,one\n ,two\nx,three\n"),
        ("a.jsonl", '{"n": "", "text": "one"}\n{"n": " ", "text": "two"}\n{"n": "x", "text": "three"}\n'),
        ("a.parquet", ""),
    ],
)
def test_an_empty_id_is_missing(tmp_path: Path, name: str, content: str) -> None:
    if content:
        (tmp_path / name).write_text(content)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"n": ["", None, "x"], "text": ["one", "two", "three"]}), tmp_path / name)
    load(tmp_path / name, tmp_path / "out", id_column="n")
    assert texts_in(tmp_path / "out") == ["three"]
    assert [row[2] for row in rejected(tmp_path / "out")] == ["missing id"] * 2


def test_a_column_of_numbers_is_an_id_but_no_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [7, None], "text": ["a", "b"]}), tmp_path / "a.parquet")
    load(tmp_path / "a.parquet", tmp_path / "out", id_column="n")
    assert texts_in(tmp_path / "out") == ["a"] and rejected(tmp_path / "out") == [("a.parquet", 2, "missing id")]
    (tmp_path / "b.txt").write_text("good")
    load([tmp_path / "a.parquet", tmp_path / "b.txt"], tmp_path / "other", text_column="n")
    assert rejected(tmp_path / "other") == [("a.parquet", 0, "wrong type")]


def test_a_row_that_loses_a_line_over_the_limit_is_not_taken_for_whole(tmp_path: Path) -> None:
    long = "x" * (1 << 21)
    (tmp_path / "a.csv").write_text(f'text,n\n"begin\n{long}\nend",1\nlast,2\n')
    load(tmp_path / "a.csv", tmp_path / "out", max_bytes=1 << 20)
    assert texts_in(tmp_path / "out") == ["last"]
    assert [row[1:] for row in rejected(tmp_path / "out")] == [(3, "too long"), (2, "not UTF-8")]
