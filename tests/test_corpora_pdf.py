"""PDF files become running text: reading order, paragraphs, hyphens, headings; what has no text is told."""

import base64
import gzip
import io
import random
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from test_corpora import load, rejected, texts_in
from test_corpora_kinds import write_objects, write_pdf

from data.corpora.pdf import reader
from data.corpora.pdf.hyphens import Joiner
from data.corpora.pdf.title import sensible_title
from data.corpora.reading import Source
from data.records import Document
from data.store import read_folder
from data.structure import VERBATIM, marks_of

WIDTH, HEIGHT = 612, 792
AES = base64.b85decode(  # "Otters are heavy." in AES of 256 bits, for which an empty password is enough
    "B~V00Eio=L3MJy>&(jJqATS_rVrmLJJPI#Ra&KgHV`Xw6JZ5AvFf=q~Wny78G&ndlGBY-2Ha0ghVlZN5F=aMnWMO79IXE^pVlZVmGC4D1GhsAh"
    "G-EPkV>mNpH8nIhI6ewKJ_==SWN%_>3Nj!tAa7!73OqatFI0JOWgst5VP|D?3NJ%%b#8PZF$ynBX=HOCTOc$bFd$MOT?#%v3T19&Z(?c+GaxV^"
    "Z(?c+JUj|7RC#b^ATL8<bYX07X9_P+VP|D?ATl5@AW{lGJ_==SWN%_>3N#=vAa7!73OqatFGFu`bY*UIb09S!Fd$M2FHL1+X<<TdcpzIKFd#4>"
    "GcYh9F)%P7T?#K!Wpi(Ja${w4AUr$@FGg=}bRae$Fd$M2FHmxCV^d{xAX^|WP((%`FH~iCbRaKDZDD6+LLe_mZDD6+Lm)3nZDD6+Ng!PcK0XRB"
    "Qg3u&bY&ng3NKW0VQzCEJUj|MJ_;{Xd2nSQFHm7;WeP7)VRB_|bRaSyFd$M2K0XR%Ze(v_Y6>+VFd%PYY6?6&3NJ=!Y;<LEAX^|WK~qCXNjNn`"
    "Wn*t-Wgss`Y+-a|L}g=dWMv>-3NK7$ZfA68ATcsH3O+sxb98cLVQmUw2$-d_ae_f<a-828q=o>*!c4&nyiuM}ejhxh4MTNE;4L57&}6b^`%$$Y"
    "`P3rErCfL7+Vx(o+}t`Fvk^>_&V>89HmZomRm%!Y-G4aU$rI@6n0LRpz!0u^bGv>inT>fZnC0A&2)YO}**T7Noa2QvX@ws7j)@C+{g!PCWo~41"
    "baG{3Z3<;>WN%_>3N|1xAa7!73OqatFGevSHy|(|QVKpk3T19&Z(?c+Hy|(|Z(?c+JUj|7LSb`dMsIF(ATLN|Y<6XIX=7muFGX%+Z)9n1XCN<E"
    "X>LJob7@6xV{c?>Zf6QFPGN0jATLHS3NKT2Vsv?MWgst9d2nSh3NKW7aAhDbMsIF(3O+sxWo~3|VrmLFATS_rVrmLJJPI#XAT<gvQXn=8FHB`_"
    "XLM*FGBq{|FHj&fGC4FkHa9XkG72w7X>4?5av(2LbYX5}VRB>&FHaymWi(}FIc8!xGiG8kH8e6ZWnwgCVlrZ5W;QWnW;8H3V=^{lIAb<4GB`J8"
    "Wi(_pG&DJ7W;JGIH)UdEVKy~oWi&N1VmD(qGB;y2V>mW4H#ImpF)=k`G&5ymG&DG3J_;{YAUtAWVP;`uVPiKqFk@n4H8*28WHvHlVq#%AGBPq_"
    "W->E5H8wLeF=S*kVKQVlHZ(P4GiGKoG&nhBH#RaeIAURDVr4iqVK!woF*0Q^IW;*jVq-96IW#aZGB;&5I5|EFFGEHkJUj|7Q*>lQMj$*q3NJx*"
    "bZA9(Wo~pJFGO!+PjF>!3NJ%OO&~8pMN?KY3NK7$ZfA68ATu%wK0XRQJ_;{WbZtf;FH>}6Lq-ZOQ*?4hATLvNWJ5*@FHc1vJTfyiFgRp6W;ixx"
    "I5;t4V>e?mW-~HlHZ^5qH8^27G&f^qV>mTtWo9{JW;HQ2G&f{rW??X8G&nb6H#0b7Vm=BlRYf2?IAS?5VKFmgGG;V2IA%FxWil~0H)Sy~F*Yzb"
    "HZn9dG+{DjVK8GjIAk<9HZn3~HD+ZwVKO;4WHT}~He_RCJ_;{TWpZtEAUroUH#sphG&x~4GB;!~GBhwbVKHSmF*r6bVr4ftVr4!GK0XR%Ze(v_"
    "Y6^IAWo8O6AUO&!FfcGMFfcGMFd#NHH8V9JW*`bMFfcGMFfcGNH6SoBFfcG6ZXgOUFfcGMFfcJOGaxW9FfcG6ZXgOUFfcGMFfcJUG9WN8FfcG6"
    "ZXgOUFfcGMFfcMQF(5E7FfcG6ZXgOUFfcGMFfcSRFd#56FfcG6ZXgOUFfcGMFfcYUIUq1FFfcG6ZXgOUFfcGMFfcYYFd#56FfcG6ZXgOUFfcGM"
    "FfcbZHy|)DFfcG6ZXgPDa$#v~WpWBUJPI#UX?kTKISMaQZ*O!UGaxV^QVK6gZf0*FF(5D?QVK6gL?BxrJYr@uV=_2oHDYCCFk@yoH(_L9GBYq?"
    "WnnfsFga#qIX)mfVrDaAGB{*4Vr677V`exvVPs)4GcaLgVKzB1Ic8)zJ|JBRFGX%+a(QrcAUGf}AW{lGJ_>VmVRCeMa%E-;F*7nU3MC~)Peuv"
)
Draw = Callable[[Canvas], None]


def draw(path: Path, *pages: Draw, title: str = "", encrypt: StandardEncryption | None = None) -> None:
    canvas = Canvas(str(path), pagesize=(WIDTH, HEIGHT), encrypt=encrypt, invariant=True)
    if title:
        canvas.setTitle(title)
    for page in pages:
        page(canvas)
        canvas.showPage()
    canvas.save()


def put(
    canvas: Canvas, lines: Sequence[str], *, x: float = 72, y: float = 72, size: float = 11, font: str = "Helvetica"
) -> None:
    """Lines from a height, in points from the top, downwards."""
    canvas.setFont(font, size)
    for number, line in enumerate(lines):
        canvas.drawString(x, HEIGHT - y - 1.2 * size * number, line)


def documents_in(out: Path) -> list[Document]:
    return list(read_folder(out / "documents", Document))


def text_of(path: Path) -> str:
    (text,) = texts_in_pdf(path)
    return text


def texts_in_pdf(path: Path) -> list[str]:
    load(path, path.with_suffix(".out"))
    return texts_in(path.with_suffix(".out"))


LEFT = ["The left column begins with this", "line, and it goes on with the next", "one until it is full. Then it ends."]
RIGHT = ["The right column begins at the top", "and has three lines too, of which", "this is the last one on the page."]
IN_ORDER = (
    "The left column begins with this line, and it goes on with the next one until it is full. Then it ends.",
    "The right column begins at the top and has three lines too, of which this is the last one on the page.",
)


@pytest.mark.parametrize("row_by_row", [False, True])
def test_columns_are_read_one_after_the_other(tmp_path: Path, row_by_row: bool) -> None:
    def page(canvas: Canvas) -> None:
        put(canvas, ["A title across both columns of this page, in large letters"], size=18)
        if row_by_row:
            for number, pair in enumerate(zip(LEFT, RIGHT, strict=True)):
                for x, line in zip((72, 320), pair, strict=True):
                    put(canvas, [line], x=x, y=120 + 13.2 * number)
        else:
            put(canvas, LEFT, y=120)
            put(canvas, RIGHT, x=320, y=120)

    draw(tmp_path / "a.pdf", page)
    text = text_of(tmp_path / "a.pdf")
    assert text.split("\n\n") == ["A title across both columns of this page, in large letters", *IN_ORDER]


def test_three_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    columns = [[f"Column {name} has this line", "and a second one, which", "ends with a full stop."] for name in "ABC"]

    def page(canvas: Canvas) -> None:
        for number in range(3):
            for column, lines in enumerate(columns):
                put(canvas, [lines[number]], x=50 + 180 * column, y=100 + 13.2 * number)

    draw(tmp_path / "a.pdf", page)
    wanted = [f"Column {name} has this line and a second one, which ends with a full stop." for name in "ABC"]
    assert text_of(tmp_path / "a.pdf").split("\n\n") == wanted


def test_a_table_is_read_row_by_row_and_is_no_prose(tmp_path: Path) -> None:
    rows = [("Town", "People", "Mayor"), ("Lower Wick", "812", "A. Pell"), ("Upper Wick", "95", "B. Orm")]

    def page(canvas: Canvas) -> None:
        put(canvas, ["The towns of the valley have few people."], y=60)
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                put(canvas, [cell], x=72 + 150 * column, y=100 + 14 * number)

    draw(tmp_path / "a.pdf", page)
    load(tmp_path / "a.pdf", tmp_path / "out")
    (document,) = documents_in(tmp_path / "out")
    table = "Town | People | Mayor\nLower Wick | 812 | A. Pell\nUpper Wick | 95 | B. Orm"
    assert document.text == f"The towns of the valley have few people.\n\n{table}"
    assert [(kind, document.text[start:end]) for kind, start, end in marks_of(document.outline)] == [(VERBATIM, table)]


def test_running_heads_and_page_numbers_are_dropped(tmp_path: Path) -> None:
    def page(number: int) -> Draw:
        def drawn(canvas: Canvas) -> None:
            put(canvas, [f"Annual report {2020 + number}"], y=30, size=9)
            put(canvas, [f"Otters on page {number} are heavy. They", f"weigh {number} pounds."], y=100)
            put(canvas, [f"Page {number} of 4"], x=290, y=760, size=9)

        return drawn

    draw(tmp_path / "a.pdf", *map(page, range(1, 5)))
    wanted = [f"Otters on page {number} are heavy. They weigh {number} pounds." for number in range(1, 5)]
    assert text_of(tmp_path / "a.pdf").split("\n\n") == wanted


@pytest.mark.parametrize("numbers", [["iii", "iv", "v"], ["- 7 -", "- 8 -", "- 9 -"], ["1", "2", "3"]])
def test_numbers_that_count_the_pages_are_dropped_and_others_are_kept(tmp_path: Path, numbers: list[str]) -> None:
    bodies = ["In the year of the flood there were", "no otters at all, and of the stoats", "there were left only"]

    def page(number: str, body: str) -> Draw:
        def drawn(canvas: Canvas) -> None:
            put(canvas, [body], y=100)
            put(canvas, [number], x=300, y=760)

        return drawn

    def last(canvas: Canvas) -> None:
        put(canvas, ["1816"], y=100)

    draw(tmp_path / "a.pdf", *map(page, numbers, bodies), last)
    text = text_of(tmp_path / "a.pdf")
    assert " ".join(text.split()) == " ".join([*bodies, "1816"])


def test_a_sentence_goes_on_behind_a_page_with_its_notes_after_it(tmp_path: Path) -> None:
    def first(canvas: Canvas) -> None:
        put(canvas, ["The first paragraph of this text ends here on its own line.", "It is short."], y=100)
        put(canvas, ["The otter is heavier than the stoat, as everyone knows1, and the stoat is heav-"], y=140)
        put(canvas, ["1 Everyone but the stoat."], y=720, size=8)

    def second(canvas: Canvas) -> None:
        put(canvas, ["ier than the weasel. The weasel is the lightest of the three animals here."], y=100)

    draw(tmp_path / "a.pdf", first, second)
    assert text_of(tmp_path / "a.pdf").split("\n\n")[1:] == [
        "The otter is heavier than the stoat, as everyone knows1, and the stoat is heavier than the weasel. "
        "The weasel is the lightest of the three animals here.",
        "1 Everyone but the stoat.",
    ]


def test_large_and_bold_lines_are_headings_by_their_size(tmp_path: Path) -> None:
    body = [
        "Otters live in rivers and eat fish, which they catch at",
        "night, and they sleep by day in a hole of the bank.",
    ]

    def page(canvas: Canvas) -> None:
        put(canvas, ["A book of otters"], y=60, size=24)
        put(canvas, ["1 Where they live"], y=110, size=16)
        put(canvas, body, y=140)
        put(canvas, ["1.1 By night"], y=200, font="Helvetica-Bold")
        put(canvas, body[::-1], y=220)

    draw(tmp_path / "a.pdf", page)
    load(tmp_path / "a.pdf", tmp_path / "out")
    (document,) = documents_in(tmp_path / "out")
    found = [(kind, document.text[start:end]) for kind, start, end in marks_of(document.outline)]
    assert found == [(1, "A book of otters"), (2, "1 Where they live"), (3, "1.1 By night")]
    assert document.heading == "A book of otters"
    assert " ".join(body) in document.text.splitlines()


@pytest.mark.parametrize(
    ("title", "heading"),
    [
        ("Of Otters", "Of Otters"),
        ("Microsoft Word - otters.doc", "Large print"),
        ("a", "Large print"),
        ("a.pdf", "Large print"),
    ],
)
def test_the_title_of_a_file_is_its_heading_if_it_is_one(tmp_path: Path, title: str, heading: str) -> None:
    def page(canvas: Canvas) -> None:
        put(canvas, ["Large print"], size=20)
        put(canvas, ["Small print of some length, and more of it."], y=120)

    draw(tmp_path / "a.pdf", page, title=title)
    load(tmp_path / "a.pdf", tmp_path / "out")
    assert [document.heading for document in documents_in(tmp_path / "out")] == [heading]


@pytest.mark.parametrize("title", ["untitled", "Document1", "thesis.dvi", "scan_0042", "(anonymous)", "\ufffd", ""])
def test_what_a_program_writes_is_no_title(title: str) -> None:
    assert sensible_title(title, "a.pdf") == ""


def test_code_keeps_its_lines_and_indentation(tmp_path: Path) -> None:
    code = ["def f(x):", "    if x:", "        return 1", "", "    return 2"]

    def page(canvas: Canvas) -> None:
        put(canvas, ["The function below is written in a language that is known to many people."], y=60)
        for number, line in enumerate(code):
            put(
                canvas,
                [line.strip()],
                x=72 + 6.6 * (len(line) - len(line.lstrip())),
                y=100 + 13.2 * number,
                font="Courier",
            )
        put(canvas, ["And the text goes on here."], y=200)

    draw(tmp_path / "a.pdf", page)
    assert "\n".join(code) in text_of(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["The otter is heav-", "ier."], "The otter is heavier."),
        (["It is a well-", "known fact. A well-known one."], "It is a well-known fact. A well-known one."),
        (["A co-", "operation; cooperation again"], "A cooperation; cooperation again"),
        (["By Jean-", "Paul"], "By Jean-Paul"),
        (["From 2020-", "2021"], "From 2020-2021"),
        (["COVID-", "19"], "COVID-19"),
        (["GREAT INFOR-", "MATION"], "GREAT INFORMATION"),
        (["state-of-the-", "art by the way"], "state-of-the-art by the way"),
        (["a well-docu-", "mented one"], "a well-documented one"),
        (["pre-", "and post-war, and more"], "pre- and post-war, and more"),
        (["so -", "he said"], "so - he said"),
        (["soft\u00ad", "ly"], "softly"),
        (["它很", "重。"], "它很重。"),
        (["ภาษา", "ไทย"], "ภาษาไทย"),
        (["한국어는", "띄어쓰기를"], "한국어는 띄어쓰기를"),
        (["see https://a.org/x-", "y.html"], "see https://a.org/x-y.html"),
        (["see https://a.org/", "index.html"], "see https://a.org/index.html"),
    ],
)
def test_the_ends_of_lines_are_judged_by_the_words_of_the_document(lines: list[str], text: str) -> None:
    assert Joiner(lines).join(*lines) == text


def test_ligatures_are_letters_and_superscripts_are_kept(tmp_path: Path) -> None:
    encoding = b"<< /Type /Encoding /Differences [2 /fi /fl /uniFB03 /twosuperior] >>"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman /Encoding %s >>" % encoding
    write_pdf(tmp_path / "a.pdf", ["The of\\002ce \\003oor is e\\004cient: 3 m\\005."], font=font)
    assert text_of(tmp_path / "a.pdf") == "The office floor is efficient: 3 m²."


def test_chinese_lines_are_joined_without_spaces(tmp_path: Path) -> None:
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    draw(tmp_path / "a.pdf", lambda canvas: put(canvas, ["水獭比白鼬重，而白鼬", "比伶鼬重。"], font="STSong-Light"))
    assert text_of(tmp_path / "a.pdf") == "水獭比白鼬重，而白鼬比伶鼬重。"


def test_answers_in_a_form_are_text(tmp_path: Path) -> None:
    def page(canvas: Canvas) -> None:
        put(canvas, ["Name of the otter:"], y=92)
        canvas.acroForm.textfield(name="name", value="Ada Pell", x=200, y=690, width=200, height=24)

    draw(tmp_path / "a.pdf", page)
    assert " ".join(text_of(tmp_path / "a.pdf").replace("|", "").split()) == "Name of the otter: Ada Pell"


def test_accents_that_are_drawn_by_themselves_join_their_letters(tmp_path: Path) -> None:
    def page(canvas: Canvas) -> None:
        canvas.setFont("Helvetica", 12)
        text = canvas.beginText(72, 700)
        text.textOut("Le cr")
        x = text.getX()
        text.textOut("e")
        text.textOut("ateur")
        canvas.drawText(text)
        canvas.drawString(x + 1.7, 700, "´")

    draw(tmp_path / "a.pdf", page)
    assert text_of(tmp_path / "a.pdf") == "Le créateur"


def test_footers_of_a_form_letter_go_and_its_first_lines_stay(tmp_path: Path) -> None:
    def page(number: int) -> Draw:
        def drawn(canvas: Canvas) -> None:
            put(
                canvas,
                ["Dear reader,", f"your invoice {number} is due, and we ask you to pay", f"{number} pounds soon."],
                y=100,
            )
            put(canvas, ["The Mill, Lower Wick"], y=760, size=8)

        return drawn

    draw(tmp_path / "a.pdf", *map(page, (3, 11, 54, 55)))
    text = text_of(tmp_path / "a.pdf")
    assert "Mill" not in text
    assert all(
        f"your invoice {number} is due, and we ask you to pay {number} pounds" in text for number in (3, 11, 54, 55)
    )


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_turned_page_is_read_as_it_stands_and_a_watermark_is_dropped(tmp_path: Path, angle: int) -> None:
    def page(number: int) -> Draw:
        def drawn(canvas: Canvas) -> None:
            canvas.saveState()
            canvas.translate(300, 400)
            canvas.rotate(45)
            canvas.drawString(0, 0, "CONFIDENTIAL")
            canvas.restoreState()
            canvas.translate(WIDTH / 2, HEIGHT / 2)
            canvas.rotate(angle)
            canvas.setFont("Helvetica", 11)
            canvas.drawString(-200, 10, f"Page {number} of this text is turned, and its first")
            canvas.drawString(-200, -4, "line goes on with the second one.")

        return drawn

    draw(tmp_path / "a.pdf", page(1), page(2))
    wanted = [
        f"Page {number} of this text is turned, and its first line goes on with the second one." for number in (1, 2)
    ]
    assert text_of(tmp_path / "a.pdf").split("\n\n") == wanted


@pytest.mark.parametrize("strength", [40, 128])
def test_a_file_that_opens_without_a_password_is_read(tmp_path: Path, strength: int) -> None:
    encrypt = StandardEncryption("", ownerPassword="secret", strength=strength)
    draw(tmp_path / "a.pdf", lambda canvas: put(canvas, ["Otters are heavy."]), encrypt=encrypt)
    assert text_of(tmp_path / "a.pdf") == "Otters are heavy."


def test_a_file_in_aes_that_opens_without_a_password_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(AES)
    assert text_of(tmp_path / "a.pdf") == "Otters are heavy."


def test_a_file_with_a_password_is_rejected_and_its_neighbour_is_read(tmp_path: Path) -> None:
    encrypt = StandardEncryption("mine", ownerPassword="secret", strength=128)
    draw(tmp_path / "a.pdf", lambda canvas: put(canvas, ["Otters are heavy."]), encrypt=encrypt)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert rejected(tmp_path / "out") == [("a.pdf", 0, "encrypted PDF")]


def scan(canvas: Canvas) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("L", (60, 80), 200).save(picture, "PNG")
    picture.seek(0)
    canvas.drawImage(ImageReader(picture), 20, 20, WIDTH - 40, HEIGHT - 40)


def test_a_scan_is_rejected_with_what_to_do(tmp_path: Path) -> None:
    draw(tmp_path / "a.pdf", scan, scan)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert rejected(tmp_path / "out") == [("a.pdf", 0, "scanned PDF")]
    assert "ocrmypdf" in (tmp_path / "out" / "rejected" / "rows.jsonl").read_text()


def test_scanned_pages_among_others_are_counted_one_by_one(tmp_path: Path) -> None:
    draw(tmp_path / "a.pdf", scan, lambda canvas: put(canvas, ["Otters are heavy."]), lambda canvas: None, scan)
    load(tmp_path / "a.pdf", tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Otters are heavy."]
    assert rejected(tmp_path / "out") == [("a.pdf", 1, "scanned PDF"), ("a.pdf", 4, "scanned PDF")]


def test_characters_without_a_meaning_are_no_text(tmp_path: Path) -> None:
    names = b" ".join(b"/uniE0%02X" % code for code in range(65, 123))
    font = (
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Type /Encoding /Differences [65 %s] >> >>"
    )
    write_pdf(tmp_path / "a.pdf", ["Otters are heavier than stoats."], font=font % names)
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["good"]
    assert rejected(tmp_path / "out") == [("a.pdf", 0, "garbled PDF")]


def write_laughs(path: Path, depth: int = 40) -> None:
    """A page that draws a form, which draws another three times, and so on."""
    head = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X %d 0 R >> >>"
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << /XObject << /X 5 0 R >> >> /Contents 4 0 R >>"
    )
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", page]
    objects.append(b"<< /Length 5 >>\nstream\n/X Do\nendstream")
    for number in range(depth):
        objects.append(b"<< /Length 17 %s >>\nstream\n/X Do /X Do /X Do\nendstream" % (head % (6 + number)))
    write_objects(path, objects)


def test_a_file_that_loops_is_rejected_and_its_neighbours_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SECONDS", 1)
    write_laughs(tmp_path / "b.pdf")
    for name in "ac":
        draw(tmp_path / f"{name}.pdf", partial(put, lines=[f"Good {name}."]))
    load(tmp_path, tmp_path / "out")
    assert texts_in(tmp_path / "out") == ["Good a.", "Good c."]
    assert rejected(tmp_path / "out") == [("b.pdf", 0, "broken PDF")]


def test_a_file_that_unpacks_to_much_is_rejected_or_read_in_bounded_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(b"BT /F1 9 Tf 9 9 Td " + b"(a) Tj " * 3_000_000 + b"ET", 9)
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>"
    )
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(bomb), bomb)
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    write_objects(tmp_path / "a.pdf", [b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, stream, font])
    (tmp_path / "b.txt").write_text("good")
    load(tmp_path, tmp_path / "out", max_bytes=1 << 20)
    assert texts_in(tmp_path / "out")[-1] == "good"
    assert {name for name, _, _ in rejected(tmp_path / "out")} == {"a.pdf"}


def test_a_file_that_is_unpacked_while_it_is_read_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "plain.pdf", lambda canvas: put(canvas, ["Otters are heavy."]))
    (tmp_path / "a.pdf").write_bytes(gzip.compress((tmp_path / "plain.pdf").read_bytes()))

    def unpacked(source: Source) -> io.BufferedIOBase:
        return gzip.open(source.path)

    monkeypatch.setattr(reader, "open_stream", unpacked)
    assert text_of(tmp_path / "a.pdf") == "Otters are heavy."


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pdf") / "sound.pdf"
    draw(path, lambda canvas: put(canvas, LEFT), lambda canvas: put(canvas, RIGHT, font="Courier"), title="Sound")
    return path.read_bytes()


@given(seed=st.integers(0, 1 << 32), changes=st.integers(1, 40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_gives_a_document_or_a_reason(sound: bytes, tmp_path: Path, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    content = bytearray(sound)
    for _ in range(changes):
        place = chance.randrange(len(content))
        if chance.random() < 0.2:
            del content[place : place + chance.randrange(1, 200)]
        else:
            content[place] = chance.choice(b"0123456789<>[]()/ %\n\x00\xff")
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    answer = reader.CHILD.ask({"path": str(path), "name": "a.pdf", "max_bytes": 1 << 20, "seconds": 5})
    assert answer["text"] is not None or answer["rejected"]
    assert all(reason and detail for _, reason, detail in answer["rejected"])
