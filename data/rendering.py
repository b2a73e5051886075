"""Where records become text: a model's prompt book.

A model folder may carry its own `prompts.toml` (the embedded model does: it has an instruction language of its own);
every other model gets the English one. The prompts of a book for chats are user turns of the model's chat template.
Books are closed and checked: an unknown table, key or placeholder is an error.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import InputError
from data.seeds import fingerprint

BOOK_NAME = "prompts.toml"
TEMPLATES = Path(__file__).with_name("templates")
ENGLISH, ENGLISH_CHAT, NONSENSE = (TEMPLATES / f"{name}.toml" for name in ("english", "english-chat", "nonsense"))
SENTENCE, DOCUMENT, DOCUMENTS, HEADING, LANGUAGE = "sentence", "document", "documents", "heading", "language"
FIRST, SECOND, THIRD, STRATEGY, QUESTION = "first", "second", "third", "strategy", "question"
ANSWER, SUBJECT, OPTIONS = "answer", "subject", "options"
PROPOSE = "propose"  # the table of a family that asks what its other tables are then asked with
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HEADING_LINE = re.compile(r"(?m)^(?!.*\{(?!heading\})\w+\}).*\{heading\}.*(?:\n|$)")
Parser = Literal["statement", "statements", "questions", "text", "names"]


@dataclass(frozen=True)
class Family:
    """What the templates of a family are asked about. `needs` are placeholders that must occur, `optional` may.

    `about` are those whose values belong to the target: entities of the document, or what the template `propose` of the
    family has proposed. With `in_context`, documents precede the prompt as a context that prompts share. What a family
    that does not `augment` gives is for evaluation, and is never trained.
    """

    needs: tuple[str, ...]
    optional: tuple[str, ...] = (HEADING, LANGUAGE)
    about: tuple[str, ...] = ()
    in_context: bool = False
    proposes: bool = False
    parser: Parser = "text"
    augments: bool = True


FAMILIES: Mapping[str, Family] = {
    "local": Family((SENTENCE,), (HEADING, LANGUAGE, DOCUMENT), parser="statement"),
    "global": Family((), (SENTENCE, DOCUMENT, HEADING, LANGUAGE), in_context=True, parser="statement"),
    "pairs": Family((FIRST, SECOND), (LANGUAGE,), (FIRST, SECOND), in_context=True, parser="statements"),
    "triples": Family(
        (FIRST, SECOND, THIRD), (LANGUAGE,), (FIRST, SECOND, THIRD), in_context=True, parser="statements"
    ),
    "self_qa": Family((DOCUMENT,), parser="questions"),
    "strategies": Family((DOCUMENT, STRATEGY), about=(STRATEGY,), proposes=True),
    "spa": Family((DOCUMENT,)),
    "focal": Family((DOCUMENT, QUESTION), about=(QUESTION,), proposes=True),
    "questions": Family(
        (), (DOCUMENT, DOCUMENTS, SENTENCE, SUBJECT, HEADING, LANGUAGE), parser="statements", augments=False
    ),
}
LOCAL, GLOBAL, QUESTIONS = "local", "global", "questions"
# Methods that need no model, and so no template; selected by family or name like the others.
REVERSE_WORDS, REVERSE_ENTITIES, MASKED, CLOSURE = "reverse/words", "reverse/entities", "masked", "closure"
MODEL_FREE = (REVERSE_WORDS, REVERSE_ENTITIES, MASKED, CLOSURE)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Texts(_Closed):
    system: str = ""
    context: str = ""
    text: str
    stop: str = "\n"
    max_tokens: int = Field(ge=1)
    answer_after: str = ""
    parser: Parser | None = None
    shots: tuple[dict[str, str], ...] = Field((), strict=False)
    row: str = ""


class Template(_Texts):
    """One way to ask for inferences, e.g. `local/reverse`: the context, then the text, then the answer.

    In a book for chat models both are one user turn, after the turn `system` if there is one, and the worked examples
    are turns before it; elsewhere `system` is the beginning of the prompt. Which placeholders
    context and text have is said by the family; {heading} is the title of a document and the headings above it (a line
    with no other placeholder is left out for a document without), {language} the language of its text. The answer ends
    at `stop` or after `max_tokens`, and is read by the `parser`. Where the model reasons before the inference,
    `answer_after` is the mark between the two. `shots` are worked examples: values of the placeholders, and the
    `answer`. `row` is the training text made of a {question} and its {answer}; without it, they are the two turns of a
    conversation.
    """

    method: str

    @property
    def family(self) -> Family:
        """The family that the method's name begins with."""
        return FAMILIES[self.method.partition("/")[0]]

    @property
    def is_proposal(self) -> bool:
        """Whether the answers are what other templates of the family are asked with."""
        return self.family.proposes and self.method.endswith(f"/{PROPOSE}")

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that context and text have."""
        return frozenset(_PLACEHOLDER.findall(self.context + self.text))

    @property
    def is_global(self) -> bool:
        """Whether a choice of the corpus's documents is in context."""
        return self.method.startswith(f"{GLOBAL}/")

    @property
    def reader(self) -> Parser:
        """How answers are read."""
        return self.parser or ("names" if self.is_proposal else self.family.parser)

    @property
    def makes_chats(self) -> bool:
        """Whether its training rows are turns of a chat: questions and answers that no `row` joins."""
        return self.reader == "questions" and not self.row

    @property
    def fingerprint(self) -> str:
        """Changes with any character of the template."""
        parts = (self.method, self.context, self.text, self.stop, self.max_tokens, self.answer_after, self.reader)
        shots = (f"{name}: {value}" for shot in self.shots for name, value in sorted(shot.items()))
        return fingerprint(*parts, *shots, *filter(None, [self.system, self.row]))

    @property
    def examples(self) -> tuple[str, ...]:
        """What the worked examples say, which no answer may repeat."""
        return tuple(
            dict.fromkeys(line for shot in self.shots for value in shot.values() for line in value.split("\n"))
        )

    @property
    def turns(self) -> list[tuple[str, str]]:
        """What is asked in each worked example, and its answer."""
        empty = {HEADING: "", LANGUAGE: "English"}
        return [(_fill(self.context, **empty | shot) + self.prompt(empty | shot), shot[ANSWER]) for shot in self.shots]

    @property
    def worked_examples(self) -> str:
        """The worked examples as a text that the prompt continues, after the text `system`."""
        texts = [
            self.system,
            *(f"{asked}{'' if asked[-1:].isspace() else ' '}{answer}" for asked, answer in self.turns),
        ]
        return "".join(f"{text}\n\n" for text in texts if text)

    def shared_context(self, documents: Sequence[str]) -> str:
        """The context of a template with {documents}."""
        return _fill(self.context, documents="\n".join(documents))

    def own_context(self, fields: Mapping[str, str]) -> str:
        """The context of a template without {documents}."""
        return _fill(self.context, **fields)

    def prompt(self, fields: Mapping[str, str]) -> str:
        """What follows the context."""
        return _fill(self.text, **fields)

    def training_text(self, question: str, answer: str) -> str:
        """The text that is trained of a question and its answer."""
        return _fill(self.row, question=question, answer=answer)


class _Icl(_Closed):
    context: str


class Masked(_Closed):
    """What precedes a passage in a row of the method "masked": {document} is the passage with gaps, each a `mark`."""

    text: str
    mark: str = Field("____", min_length=1)


_PLAIN_MASKED = Masked(text="A text with gaps:\n{document}\n\nThe text without gaps:\n")
_CHAT_MASKED = Masked(
    text="Words of a text were replaced by ____. Write the text with all of its words, and nothing else.\n\n{document}"
)


class Check(_Closed):
    """What precedes the options of a question that is checked: a `neutral` text, or all of them without the question.

    `question` is how a written question is asked.
    """

    neutral: str = Field("The answer is", min_length=1)
    choose: str = "Which of these is right?\n{options}\nThe right one is:"
    question: str = "Question: {question}\nAnswer:"

    def listing(self, options: Sequence[str]) -> str:
        """The options in this order, without the question."""
        return _fill(self.choose, options="\n".join(options))

    def asked(self, question: str) -> str:
        """A written question as a prompt."""
        return _fill(self.question, question=question)


class _Book(_Closed):
    model_config = ConfigDict(populate_by_name=True)

    chat: bool = False
    nothing: str = Field(min_length=1)
    icl: _Icl
    local: dict[str, _Texts] = {}
    global_: dict[str, _Texts] = Field({}, alias="global")
    pairs: dict[str, _Texts] = {}
    triples: dict[str, _Texts] = {}
    self_qa: dict[str, _Texts] = {}
    strategies: dict[str, _Texts] = {}
    spa: dict[str, _Texts] = {}
    focal: dict[str, _Texts] = {}
    masked: Masked | None = None
    questions: dict[str, _Texts] = {}
    check: Check = Check()


class PromptBook(_Closed):
    """All texts that surround documents and sentences; `nothing` is how the model says that nothing follows.

    With `chat`, prompts are user turns of the model's chat template.
    """

    chat: bool
    icl_context: str
    nothing: str
    templates: tuple[Template, ...]
    masked: Masked = _PLAIN_MASKED
    check: Check = Check()

    def in_context(self, documents: Sequence[str]) -> str:
        """The documents as a context that questions can follow."""
        return _fill(self.icl_context, documents="\n".join(documents))

    def select(self, methods: Sequence[str]) -> list[Template]:
        """Templates of methods named by family ("local") or in full ("local/reverse"). Raises InputError.

        The templates that propose something are left out: see `proposal`. Methods without a model have no template.
        """
        offered = [one for one in self.templates if not one.is_proposal and one.family.augments]
        known = {template.method for template in offered} | set(MODEL_FREE)
        families = {_family_of(name) for name in known}
        for method in methods:
            if method in FAMILIES and method not in families:
                what = f'the prompt book has no templates for the method "{method}"'
                hint = "use a book that has some, e.g. --prompts english or --prompts english-chat"
                raise InputError(what, where="augment.methods", hint=hint)
            if method not in known | families:
                raise InputError(
                    f'unknown augmentation method "{method}"',
                    where="augment.methods",
                    hint=f"choose among {', '.join(sorted(families | known))}",
                )
        return [one for one in offered if one.method in methods or _family_of(one.method) in methods]

    def names(self, methods: Sequence[str]) -> list[str]:
        """The full names of methods named by family or in full, those without a model last. Raises InputError."""
        return [template.method for template in self.select(methods)] + select_model_free(methods)

    def asking(self, placeholder: str) -> list[Template]:
        """The templates by which questions are written about a {document}, about {documents}, or of a {sentence}."""
        return [one for one in self.templates if not one.family.augments and _asks_about(one) == placeholder]

    def proposal(self, template: Template) -> Template | None:
        """The template whose answers this one is asked with; None if there is none."""
        name = f"{_family_of(template.method)}/{PROPOSE}"
        return next((one for one in self.templates if one.method == name and one.is_proposal), None)


def _asks_about(template: Template) -> str:
    return next((name for name in (SENTENCE, DOCUMENTS) if name in template.placeholders), DOCUMENT)


def select_model_free(methods: Sequence[str]) -> list[str]:
    """Those of the methods without a model that are named by family or in full."""
    return [one for one in MODEL_FREE if one in methods or _family_of(one) in methods]


def _family_of(method: str) -> str:
    return method.partition("/")[0]


def load_book(model_folder: Path | None, file: Path | None = None) -> PromptBook:
    """The prompt book in `file` (or shipped under that name), else the model's own, else an English one.

    The English one is that for chats if the model has a chat template. Raises InputError for a broken book.
    """
    path = file or ENGLISH
    if file and str(file) == file.stem and (TEMPLATES / f"{file}.toml").is_file():
        path = TEMPLATES / f"{file}.toml"
    elif model_folder is not None and not file:
        path = model_folder / BOOK_NAME
        if not path.is_file():
            path = ENGLISH_CHAT if has_chat_template(model_folder) else ENGLISH
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
    for family in FAMILIES:
        tables: dict[str, _Texts] = getattr(book, "global_" if family == GLOBAL else family)
        for name, table in tables.items():
            where = f"{path}, table [{family}.{name}]"
            template = Template(method=f"{family}/{name}", **table.model_dump())
            _check(template, where)
            templates.append(template)
        if tables and FAMILIES[family].proposes and (PROPOSE not in tables or len(tables) == 1):
            what = f"[{family}.{PROPOSE}] and a table that is asked with its answers belong together"
            raise InputError(what, where=f"{path}, table [{family}]", hint="add the other one")
    _check_text(book.icl.context, (DOCUMENTS,), (), f"{path}, table [icl], key context")
    masked = book.masked or (_CHAT_MASKED if book.chat else _PLAIN_MASKED)
    _check_text(masked.text, (DOCUMENT,), (), f"{path}, table [masked], key text")
    icl = book.icl.context
    _check_text(book.check.choose, (OPTIONS,), (), f"{path}, table [check], key choose")
    _check_text(book.check.question, (QUESTION,), (), f"{path}, table [check], key question")
    return PromptBook(
        chat=book.chat,
        icl_context=icl,
        nothing=book.nothing,
        templates=tuple(templates),
        masked=masked,
        check=book.check,
    )


def has_chat_template(model_folder: Path) -> bool:
    """Whether the tokenizer in the folder has a chat template."""
    if (model_folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((model_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _check(template: Template, where: str) -> None:
    """Refuse placeholders that would be sent to the model literally, and texts that lack what they are about."""
    family = template.family
    needs = tuple(name for name in family.needs if not (template.is_proposal and name in family.about))
    if not family.augments:
        needs = (_asks_about(template),)
    allowed = (*needs, *family.optional)
    if family.in_context:
        _check_text(template.context, (DOCUMENTS,), (), f"{where}, key context")
        needs = needs or ((DOCUMENT,) if f"{{{DOCUMENT}}}" in template.text else (SENTENCE,))
    else:
        _check_text(template.context, (), allowed, f"{where}, key context")
        needs = tuple(name for name in needs if name == SENTENCE or f"{{{name}}}" not in template.context)
    _check_text(template.text, needs, allowed, f"{where}, key text")
    for number, shot in enumerate(template.shots, 1):
        wanted = {*template.placeholders, ANSWER} - {HEADING, LANGUAGE}
        if wanted - set(shot) or set(shot) - wanted - {HEADING, LANGUAGE}:
            what = f"the worked example has {', '.join(shot)}"
            hint = f"give it {', '.join(sorted(wanted))}"
            raise InputError(what, where=f"{where}, key shots, number {number}", hint=hint)
    if template.row:
        _check_text(template.row, (QUESTION, ANSWER), (), f"{where}, key row")
        if template.reader != "questions":
            hint = 'leave it out, or add: parser = "questions"'
            raise InputError("row has no effect: answers are no questions", where=f"{where}, key row", hint=hint)


def _check_text(text: str, needs: Sequence[str], optional: Sequence[str], where: str) -> None:
    """Raise InputError for a text without what it needs, or with a placeholder that is neither needed nor optional."""
    known = [*needs, *(name for name in optional if name not in needs)]
    found, key = set(_PLACEHOLDER.findall(text)), where.rpartition(" ")[2]
    if unknown := found.difference(known):
        names = " and ".join(f"{{{one}}}" for one in known) or "no placeholder"
        raise InputError(f"unknown placeholder {{{min(unknown)}}}", where=where, hint=f"{key} can name {names}")
    for name in needs:
        if name not in found:
            raise InputError(f"{{{name}}} is missing", where=where, hint=f"put {{{name}}} where it belongs")


def _explain(error: ValidationError, path: Path) -> InputError:
    first = error.errors()[0]
    *table, key = map(str, first["loc"])
    where = f"{path}, " + (f"table [{'.'.join(table)}], " if table else "") + f"key {key}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(_Texts.model_fields)
        families = ", ".join(FAMILIES)
        tables = f"tables [FAMILY.NAME] with {known}; families: {families}"
        hint = f"a prompt book has chat, nothing, [icl], [check], and {tables}"
        return InputError(f'unknown key "{key}"', where=where, hint=hint)
    if first["type"] == "missing":
        return InputError(f'"{key}" is missing', where=where, hint=f"add {key}")
    return InputError(f"{first['msg']} (got {first['input']!r})", where=where, hint=f"correct {key}")


def _fill(template: str, **values: str) -> str:
    """The template with its values; a line with {heading} is left out for a document that has none."""
    if values.get(HEADING) == "":
        template = _HEADING_LINE.sub("", template)
    # In one pass: what documents contain is never a placeholder.
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)
