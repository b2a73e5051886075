"""Messages (.eml): the subject and the text that is read, without what is attached."""

from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser

import pyarrow as pa

from data.corpora.charsets import decode_as
from data.corpora.html import PageError, read_decoded
from data.corpora.reading import ImportContext, Source, make_rows
from data.corpora.streams import read_whole
from data.corpora.zipped import BROKEN

# What the library raises for broken headers and unknown charsets.
_BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_mail(source: Source, context: ImportContext) -> Iterator[pa.Table]:
    """The message as one document with its subject as the heading; attachments are rejected by their names."""
    content = read_whole(source, context, "a message")
    if content is None:
        return
    try:
        message = BytesParser(policy=policy.default).parsebytes(content)
        subject = _characters(str(message.get("subject", "")))
        text, outline = _body(message)
        attached = [_characters(part.get_filename() or part.get_content_type()) for part in message.iter_attachments()]
    except _BROKEN as error:
        context.reject(source, 0, BROKEN, f"no sound message: {type(error).__name__}: {error}")
        return
    except PageError as error:
        context.reject(source, 0, error.reason, str(error), content)
        return
    if not message.keys():
        context.reject(source, 0, BROKEN, "no message: it has no headers", content)
        return
    for name in attached:
        context.reject(source, 0, "attachment", f"{name} is not read: save it as a file of its own")
    yield make_rows(source, [text], [0], headings=[" ".join(subject.split())], outlines=[outline])


def _body(message: EmailMessage) -> tuple[str, tuple[int, ...]]:
    """What is read of a message: its plain text, or its page. Raises PageError."""
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return "", ()
    content = part.get_payload(decode=True)
    try:
        text = decode_as(content if isinstance(content, bytes) else b"", part.get_content_charset("utf-8"))
    except ValueError as error:
        raise PageError("not UTF-8", str(error)) from error
    if part.get_content_subtype() == "html":
        page = read_decoded(text, full=True)  # whatever the page declares: that is of the bytes in the message
        return page.text, page.outline
    return text.replace("\r\n", "\n").strip(), ()


def _characters(text: str) -> str:
    """The text without half surrogates, which stand for bytes that are no characters."""
    return text.encode(errors="replace").decode()
