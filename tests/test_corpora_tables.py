"""Tables in text: the delimiter, the header and the quotes are those that are meant; broken rows cost themselves."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpora import load, rejected, texts_in

from data.errors import InputError
from data.unicode import clean


def table(folder: Path, content: str | bytes, name: str = "a.csv", **flags: object) -> list[str]:
    """The documents of a table that is imported together with a sound text, which must come through."""
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "in" / "z.txt").write_text("Sound text.")
    load(folder / "in", folder / "out", **flags)
    *found, last = texts_in(folder / "out")
    assert last == "Sound text."
    return found


def rows(folder: Path) -> list[tuple[int, str]]:
    return [(line, reason) for _, line, reason in rejected(folder / "out")]


def details(folder: Path) -> list[str]:
    lines = (folder / "out" / "rejected" / "rows.jsonl").read_text().splitlines()
    return [json.loads(line)["detail"] for line in lines]


def test_one_byte_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    found = table(tmp_path, b"text,n\nGood row.,1\nCaf\xe9 cr\xe8me.,2\nLast row.,3\n")
    assert found == ["Good row.", "Last row."]
    assert rows(tmp_path) == [(3, "not UTF-8")] and "iconv" in details(tmp_path)[0]
    written = (tmp_path / "out" / "rejected" / "rows.jsonl").read_text()
    assert "\\\\xe9" in written and "\\ud" not in written  # lone surrogates are no JSON


def test_a_byte_that_is_not_utf8_in_another_column_costs_nothing(tmp_path: Path) -> None:
    assert table(tmp_path, b"text,n\nGood row.,\xe9\n") == ["Good row."]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_carriage_returns_alone_end_rows(tmp_path: Path, name: str) -> None:
    tab = "\t" if name == "a.tsv" else ","
    content = f'text{tab}lang\r"First row, with a{tab}comma."{tab}en\r"Two\rlines."{tab}en\rLast.{tab}de\r'
    found = [f"First row, with a{tab}comma.", "Two\nlines.", "Last."]
    assert table(tmp_path, content, name) == found


@pytest.mark.parametrize(
    ("content", "column", "found"),
    [
        (
            "text;lang, region\nFirst row.;en\nSecond, with a comma.;de\n",
            "text",
            ["First row.", "Second, with a comma."],
        ),
        (
            '"text, in English";id\nFirst row.;1\n"Second; quoted.";2\n',
            "text, in English",
            ["First row.", "Second; quoted."],
        ),
        ('"a;b;c;d",text\nx,"One, two; three."\n', "text", ["One, two; three."]),
        ("text|a, b, c|d\nBar; one,|1|2\n", "text", ["Bar; one,"]),
        ("a,b,text,text;c\n1,2,Three.,4\n", "text", ["Three."]),
        ('"text\nin two lines",n\nOne.,1\n', "text\nin two lines", ["One."]),
        ("sep=;\ntext;n\nOne, two.;1\n", "text", ["One, two."]),
        ('\ufeff"sep=|"\r\ntext|n\r\nOne, two; three.|1\r\n', "text", ["One, two; three."]),
        ("text\nOne; two.\nThree\tfour | five.\n", "text", ["One; two.", "Three\tfour | five."]),
    ],
)
def test_the_delimiter_is_the_one_that_gives_the_wanted_column(
    tmp_path: Path, content: str, column: str, found: list[str]
) -> None:
    assert table(tmp_path, content, text_column=column) == found


@pytest.mark.parametrize("header", ["\ufeff text ,n", '"Text",n', "TEXT\t,n", '\ufeff"text",n', "n2, text"])
def test_a_name_is_found_without_regard_to_case_and_spaces(tmp_path: Path, header: str) -> None:
    assert table(tmp_path, f"{header}\nOne.,One.\n") == ["One."]


def test_the_exact_name_comes_first(tmp_path: Path) -> None:
    assert table(tmp_path, "Text,text\nwrong,right\n") == ["right"]


@pytest.mark.parametrize("header", ["text,n,text", "Text,n, TEXT"])
def test_two_columns_of_the_wanted_name_are_no_choice(tmp_path: Path, header: str) -> None:
    assert table(tmp_path, f"{header}\none,1,two\n") == []
    assert rows(tmp_path) == [(1, "ambiguous column")]


def test_two_columns_of_another_name_do_no_harm(tmp_path: Path) -> None:
    assert table(tmp_path, "n,text,n\n1,One.,2\n") == ["One."]


def test_blank_lines_and_comments_may_come_before_the_header(tmp_path: Path) -> None:
    assert table(tmp_path, "# exported by hand; no text, but a note\n\n;;\ntext;n\n\nOne.;1\n\n") == ["One."]
    assert rows(tmp_path) == []


def test_a_missing_column_is_reported_with_the_names_that_are_there(tmp_path: Path) -> None:
    assert table(tmp_path, "\nbody;key;more\nOne.;1;2\n") == []
    assert rows(tmp_path) == [(2, "missing column")]
    assert details(tmp_path) == ['no column "text"; there are: body, key, more']


@pytest.mark.parametrize(
    "content", ["text,n\n", "text", "\n\n", "# text is below\n", "sep=,\n", "\ufeff", "text,n\r\r"]
)
def test_a_table_that_gives_nothing_is_listed(tmp_path: Path, content: str) -> None:
    assert table(tmp_path, content) == []
    assert len(rows(tmp_path)) == 1 and rows(tmp_path)[0][1] in {"empty", "missing column"}


def test_rows_that_are_too_long_or_too_short_are_rejected_by_their_line(tmp_path: Path) -> None:
    found = table(tmp_path, "text\nOtters are heavy, stoats are light.\nplain row\nAda Pell, mayor, resigned.\n")
    assert found == ["plain row"] and rows(tmp_path) == [(2, "broken CSV"), (4, "broken CSV")]
    assert details(tmp_path)[1] == "3 fields, the header has 1"


def test_delimiters_at_the_end_of_lines_are_no_fields(tmp_path: Path) -> None:
    content = "id,text,,\n1,One.,,\n2,Two.\n3,Cut, off.\n4,Cut,off,twice\n5,Five.,,,\n"
    assert table(tmp_path, content) == ["One.", "Two."]
    assert [line for line, _ in rows(tmp_path)] == [4, 5, 6]


def test_a_tsv_need_not_know_quotes(tmp_path: Path) -> None:
    lines = [
        "id\ttext",
        '1\tThe 7" tablet.',
        '2\t"Quiet please, said the guard.',
        "3\tThird.",
        '4\t"Stop" signs.',
        "5\tEnd.",
    ]
    found = table(tmp_path, "\n".join(lines) + "\n", "a.tsv", id_column="id")
    assert found == ['The 7" tablet.', '"Quiet please, said the guard.', "Third.", '"Stop" signs.', "End."]
    assert rows(tmp_path) == []


def test_a_mark_in_a_tsv_that_another_one_seems_to_close_takes_no_rows(tmp_path: Path) -> None:
    found = table(tmp_path, 'id\ttext\n1\t"Open.\n2\tMiddle.\n3\tSize 7"\n4\tLast.\n', "a.tsv")
    assert found == ['"Open.', "Middle.", 'Size 7"', "Last."]


def test_a_tsv_may_quote_tabs_and_line_ends(tmp_path: Path) -> None:
    content = 'id\ttext\n1\t"a\tb"\n2\t"She said ""go"".\nThen left."\n3\t"Whole."\n'
    assert table(tmp_path, content, "a.tsv") == ["a\tb", 'She said "go".\nThen left.', "Whole."]


def test_a_quote_that_is_never_closed_costs_its_row_only(tmp_path: Path) -> None:
    content = (
        'id,text\n1,One.\n2,"Quiet please\n3,Third.\n4,"Hush, said the other\n5,Fifth.\n6,"Six, quoted."\n7,Seven.\n'
    )
    assert table(tmp_path, content) == ["One.", "Third.", "Fifth.", "Six, quoted.", "Seven."]
    assert rows(tmp_path) == [(3, "broken CSV"), (5, "broken CSV")]


def test_a_cut_text_of_several_lines_gives_no_rows(tmp_path: Path) -> None:
    content = 'id,text\n1,One.\n2,"A letter\nwith a line, so\nwritten by hand\nand never\nended'
    assert table(tmp_path, content) == ["One."]
    assert rows(tmp_path) == [(3, "broken CSV")] and "lines 3 to 7" in details(tmp_path)[0]


def test_all_rows_after_an_open_quote_come_through(tmp_path: Path) -> None:
    content = 'id,text\n1,"Open\n' + "".join(f"{n},Row {n}.\n" for n in range(2, 200_000))
    assert len(table(tmp_path, content, max_bytes=1 << 20)) == 199_998
    assert rows(tmp_path) == [(2, "broken CSV")]


def test_every_open_quote_costs_one_row(tmp_path: Path) -> None:
    content = "id,text\n" + "".join(f'{n},"Open {n}\n' if n % 10 == 0 else f"{n},Row {n}.\n" for n in range(2000))
    assert len(table(tmp_path, content)) == 1800
    assert {reason for _, reason in rows(tmp_path)} == {"broken CSV"} and len(rows(tmp_path)) == 200


def test_marks_may_be_escaped_by_a_backslash(tmp_path: Path) -> None:
    content = (
        'text,n\n"He said \\"hi\\" to me.",1\n"Ends with \\"",2\n"a \\", b",3\n'
        '"C:\\",4\n"two \\"x\\"\nlines",5\nlast,6\n'
    )
    found = ['He said "hi" to me.', 'Ends with "', 'a ", b', "C:\\", 'two "x"\nlines', "last"]
    assert table(tmp_path, content) == found and rows(tmp_path) == []


def test_a_table_of_10_000_columns_is_read(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(9_999)] + ["text"]
    content = ",".join(names) + "\n" + "".join(",".join(["x"] * 9_999 + [f"Row {n}."]) + "\n" for n in range(20))
    assert table(tmp_path, content) == [f"Row {n}." for n in range(20)]


def test_a_row_of_many_lines_over_the_limit_is_rejected(tmp_path: Path) -> None:
    content = 'text,n\n"' + "a line of prose, so to say and so on\n" * 60_000 + '",1\nlast,2\n'
    assert "last" in table(tmp_path, content, max_bytes=1 << 20)
    assert rows(tmp_path)[0] == (2, "broken CSV") and "1 MiB" in details(tmp_path)[0]


def test_null_bytes_in_a_field_break_nothing(tmp_path: Path) -> None:
    (found, last) = table(tmp_path, b"text,n\na\x00b,1\nlast,2\n")
    assert found.replace("\x00", "") == "ab" and last == "last"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl", "a.json", "a.md"])
def test_unicode_of_two_bytes_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str, name: str) -> None:
    text = "Größe 7\u20ac, “quoted” \U0001f9a6 龍"
    content = {
        ".csv": f'text,n\r\n"{text}",1\r\n',
        ".tsv": f"text\tn\r\n{text}\t1\r\n",
        ".jsonl": json.dumps({"text": text}, ensure_ascii=False) + "\n",
        ".json": json.dumps([{"text": text}], ensure_ascii=False, indent=1),
    }.get(Path(name).suffix, text)
    assert table(tmp_path, content.encode(encoding), name) == [text]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["Выдра тяжелее ласки.\nИ горностая.", "水獭 比 黄鼠狼 重。\n是的。", "Η βίδρα είναι βαριά."]
)
def test_other_scripts_in_utf16_are_seen_without_a_mark(tmp_path: Path, encoding: str, text: str) -> None:
    assert table(tmp_path, text.encode(encoding), "a.txt") == [text]


def test_half_a_character_in_utf16_costs_its_row(tmp_path: Path) -> None:
    content = "text\tn\r\nGood.\t1\r\nBad @\t2\r\nLast.\t3\r\n".encode("utf-16-le")
    at = content.index("@".encode("utf-16-le"))
    content = b"\xff\xfe" + content[:at] + b"\x00\xd8" + content[at + 2 :]
    assert table(tmp_path, content, "a.tsv") == ["Good.", "Last."]
    assert rows(tmp_path) == [(3, "not UTF-8")]


def test_a_table_in_another_encoding_says_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing usable"):
        (tmp_path / "a.csv").write_bytes("text\nдва слова\n".encode("cp1251"))
        load(tmp_path / "a.csv", tmp_path / "out")
    assert "iconv" in details(tmp_path)[0]


fields = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(lambda text: text.replace("\\", ""))
cells = st.tuples(fields, st.sampled_from(["", '"', ",", ";", "\n", "\t", '""', '",']), fields).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from(",;\t|"), st.booleans())
def test_what_a_writer_of_tables_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str]], delimiter: str, quote_all: bool
) -> None:
    folder = tmp_path_factory.mktemp("table")
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=delimiter, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerows([("n", "text", "other"), *((n, f"row {n} {a}", b) for n, (a, b) in enumerate(members))])
    found = table(folder, sink.getvalue())
    assert found == [clean(f"row {n} {a}") for n, (a, _) in enumerate(members)]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_rejected_or_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("table")
    found = table(folder, b'text,n\n"' + content)
    if b"text," not in content:
        assert found or rows(folder)
