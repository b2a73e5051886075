"""Where records become text: a model's prompt book.

A model folder may carry its own `prompts.toml` (the embedded model does: it has an instruction language of its own);
every other model gets the English one. The prompts of a book for chats are user turns of the model's chat template.
Books are closed and checked: an unknown table, key or placeholder is an error.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import InputError
from data.seeds import fingerprint

BOOK_NAME = "prompts.toml"
TEMPLATES = Path(__file__).with_name("templates")
ENGLISH, ENGLISH_CHAT, NONSENSE = (TEMPLATES / f"{name}.toml" for name in ("english", "english-chat", "nonsense"))
LOCAL, GLOBAL = "local", "global"
HEADING = "heading"  # an optional placeholder
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Texts(_Closed):
    system: str = ""
    context: str = ""
    text: str
    stop: str = "\n"
    max_tokens: int = Field(ge=1)
    answer_after: str = ""


class Template(_Texts):
    """One way to ask for an inference, e.g. `local/reverse`: the shared context, then the text, then the answer.

    In a book for chat models both are one user turn, after the turn `system` if there is one. Local contexts and all
    texts may name {sentence}, and {heading}, the title of its document and the headings above it; global contexts
    {documents}. The answer ends at `stop` or after `max_tokens`. Where the
    model reasons before the inference, `answer_after` is the mark between the two.
    """

    method: str

    @property
    def is_global(self) -> bool:
        """Whether all documents of the corpus are in context."""
        return self.method.startswith(f"{GLOBAL}/")

    @property
    def fingerprint(self) -> str:
        """Changes with any character of the template."""
        parts = (self.method, self.context, self.text, self.stop, self.max_tokens, self.answer_after)
        return fingerprint(*parts, *filter(None, [self.system]))

    def shared_context(self, documents: Sequence[str]) -> str:
        """The context of a global template."""
        return _fill(self.context, documents="\n".join(documents))

    @property
    def names_heading(self) -> bool:
        """Whether the heading of a document is part of its prompts."""
        return HEADING in _PLACEHOLDER.findall(self.text + self.context)

    def local_context(self, sentence: str, heading: str = "") -> str:
        """The context of a local template."""
        return _fill(self.context, sentence=sentence, heading=heading)

    def prompt(self, sentence: str, heading: str = "") -> str:
        """What follows the context."""
        return _fill(self.text, sentence=sentence, heading=heading)


class _Icl(_Closed):
    context: str


class _Book(_Closed):
    chat: bool = False
    nothing: str = Field(min_length=1)
    icl: _Icl
    local: dict[str, _Texts] = {}
    global_: dict[str, _Texts] = Field({}, alias="global")


class PromptBook(_Closed):
    """All texts that surround documents and sentences; `nothing` is how the model says that nothing follows.

    With `chat`, prompts are user turns of the model's chat template.
    """

    chat: bool
    icl_context: str
    nothing: str
    templates: tuple[Template, ...]

    def in_context(self, documents: Sequence[str]) -> str:
        """The documents as a context that questions can follow."""
        return _fill(self.icl_context, documents="\n".join(documents))

    def select(self, methods: Sequence[str]) -> list[Template]:
        """Templates of methods named by family ("local") or in full ("local/reverse"). Raises InputError."""
        known = {template.method for template in self.templates}
        families = {name.partition("/")[0] for name in known}
        for method in methods:
            if method not in known | families:
                raise InputError(
                    f'unknown augmentation method "{method}"',
                    where="augment.methods",
                    hint=f"choose among {', '.join(sorted(families | known))}",
                )
        return [t for t in self.templates if t.method in methods or t.method.partition("/")[0] in methods]


def load_book(model_folder: Path | None, file: Path | None = None) -> PromptBook:
    """The prompt book in `file` (or shipped under that name), else the model's own, else the English one.

    Raises InputError for a broken book.
    """
    path = file or ENGLISH
    if file and str(file) == file.stem and (TEMPLATES / f"{file}.toml").is_file():
        path = TEMPLATES / f"{file}.toml"
    elif model_folder is not None and not file:
        own = model_folder / BOOK_NAME
        path = own if own.is_file() else ENGLISH
    try:
        book = _Book.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        what = f"cannot read the prompt book: {error.strerror}"
        raise InputError(what, where=str(path), hint="correct the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the prompt book is not valid TOML: {error}", where=str(path), hint="fix the line") from error
    except ValidationError as error:
        raise _explain(error, path) from error
    templates = []
    for family, tables in ((LOCAL, book.local), (GLOBAL, book.global_)):
        for name, table in tables.items():
            where = f"{path}, table [{family}.{name}]"
            if table.system and not book.chat:
                raise InputError("a system turn needs a chat", where=f"{where}, key system", hint="add: chat = true")
            _check(table.context, family, "context", where)
            _check(table.text, family, "text", where)
            templates.append(Template(method=f"{family}/{name}", **table.model_dump()))
    _check(book.icl.context, "icl", "context", f"{path}, table [icl]")
    icl = book.icl.context
    return PromptBook(chat=book.chat, icl_context=icl, nothing=book.nothing, templates=tuple(templates))


def _check(text: str, family: str, key: str, where: str) -> None:
    """Refuse placeholders that would be sent to the model literally, and texts that lack what they are about."""
    name = "documents" if key == "context" and family != LOCAL else "sentence"
    found = set(_PLACEHOLDER.findall(text))
    known = [name, HEADING] if name == "sentence" else [name]
    if unknown := found.difference(known):
        names = " and ".join(f"{{{one}}}" for one in known)
        raise InputError(
            f"unknown placeholder {{{min(unknown)}}}", where=f"{where}, key {key}", hint=f"{key} can name {names}"
        )
    if name not in found and (family, key) != (LOCAL, "context"):
        raise InputError(f"{{{name}}} is missing", where=f"{where}, key {key}", hint=f"put {{{name}}} where it belongs")


def _explain(error: ValidationError, path: Path) -> InputError:
    first = error.errors()[0]
    *table, key = map(str, first["loc"])
    where = f"{path}, " + (f"table [{'.'.join(table)}], " if table else "") + f"key {key}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(_Texts.model_fields)
        hint = f"a prompt book has chat, nothing, [icl], and tables [local.NAME] and [global.NAME] with {known}"
        return InputError(f'unknown key "{key}"', where=where, hint=hint)
    if first["type"] == "missing":
        return InputError(f'"{key}" is missing', where=where, hint=f"add {key}")
    return InputError(f"{first['msg']} (got {first['input']!r})", where=where, hint=f"correct {key}")


def _fill(template: str, **values: str) -> str:
    # In one pass: what documents contain is never a placeholder.
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)
