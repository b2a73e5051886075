"""Where records become text: a model's prompt book.

A model folder may carry its own `prompts.toml` (the embedded model does: it has an instruction language of its own);
every other model gets the English book.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.seeds import fingerprint

BOOK_NAME = "prompts.toml"
ENGLISH = Path(__file__).with_name("templates") / "english.toml"
NONSENSE = Path(__file__).with_name("templates") / "nonsense.toml"


@dataclass(frozen=True)
class Template:
    """One way to ask for an inference, e.g. `local/reverse`. Fields: {sentence}, {documents}.

    Where the model writes its way to the inference first, `answer_after` is what stands between the two.
    """

    method: str
    context: str
    text: str
    stop: str
    max_tokens: int
    answer_after: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with any character of the template."""
        return fingerprint(self.method, self.context, self.text, self.stop, self.max_tokens, self.answer_after)


@dataclass(frozen=True)
class PromptBook:
    """All texts that surround documents and sentences; `nothing` is how the model says that nothing follows."""

    icl_context: str
    nothing: str
    templates: tuple[Template, ...]

    def in_context(self, documents: Sequence[str]) -> str:
        """The documents as a context that questions can follow."""
        return _fill(self.icl_context, documents=documents)

    def select(self, methods: Sequence[str]) -> list[Template]:
        """Templates of methods named by family ("local") or in full ("local/reverse")."""
        known = {template.method for template in self.templates}
        families = {name.partition("/")[0] for name in known}
        for method in methods:
            if method not in known | families:
                raise InputError(
                    f'no augmentation method "{method}"',
                    where="methods",
                    hint=f"choose among {', '.join(sorted(families | known))}",
                )
        return [t for t in self.templates if t.method in methods or t.method.partition("/")[0] in methods]


def load_book(model_folder: Path) -> PromptBook:
    """The prompt book of a model: its own where it has one, else the English one."""
    path = model_folder / BOOK_NAME
    content = tomllib.loads((path if path.exists() else ENGLISH).read_text())
    templates = [
        Template(method=f"{family}/{name}", **entry)
        for family in ("local", "global")
        for name, entry in content.get(family, {}).items()
    ]
    return PromptBook(content["icl"]["context"], content["nothing"], tuple(templates))


def fill_template(template: Template, *, sentence: str, documents: Sequence[str]) -> tuple[str, str]:
    """The shared context and the text of one prompt."""
    context = _fill(template.context, sentence=sentence, documents=documents)
    return context, _fill(template.text, sentence=sentence, documents=documents)


def _fill(template: str, *, documents: Sequence[str], sentence: str = "") -> str:
    # Plain replacement: documents may contain braces.
    return template.replace("{sentence}", sentence).replace("{documents}", "\n".join(documents))
