"""The sections of a recipe that say which sets are made, and how large."""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Closed and frozen: no key that nobody reads, no value that changes under way."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SetSection(Section):
    """The sizes of one set. `lexicon` chooses its language, and with it the sizes of what is not named.

    "tiny": the words that the embedded model reads, in small worlds. "open": English with nonsense words, at the
    paper's size (`at_full_size`).
    """

    at_full_size: ClassVar[dict[str, Any]] = {}
    only: ClassVar[dict[str, tuple[str, ...]]] = {}  # by lexicon, the keys that say nothing in the other one

    lexicon: Literal["tiny", "open"] = "tiny"
    worlds: int = Field(5, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        is_open = isinstance(content, dict) and content.get("lexicon") == "open"
        return {"worlds": 1, **cls.at_full_size, **content} if is_open else content

    @model_validator(mode="after")
    def _refuse_what_nobody_reads(self) -> Self:
        for key in sorted(self._unread() & self.model_fields_set):
            raise ValueError(f'{key} says nothing with the lexicon "{self.lexicon}"')
        return self

    def sizes(self) -> dict[str, Any]:
        """What the maker of the set takes: all keys but those that choose the maker, and the number of worlds."""
        return self.model_dump(exclude={"lexicon", "worlds", *self._unread()})

    def _unread(self) -> set[str]:
        return {key for lexicon, keys in self.only.items() if lexicon != self.lexicon for key in keys}


class Reversals(SetSection):
    """Comparisons trained in one direction."""

    at_full_size: ClassVar[dict[str, Any]] = {"facts": 100, "documents_per_fact": 10}

    facts: int = Field(40, ge=4)
    documents_per_fact: int = Field(1, ge=1, le=25)


class Syllogisms(SetSection):
    """Pairs of premises: each premise a document (tiny), or both in one (open)."""

    at_full_size: ClassVar[dict[str, Any]] = {"syllogisms": 69}

    syllogisms: int = Field(20, ge=4)


class ReversalCurse(SetSection):
    """Names and descriptions, in three groups of people; or the published files in the folder `published`."""

    at_full_size: ClassVar[dict[str, Any]] = {"people_per_group": 30, "documents_per_fact": 30}
    only: ClassVar[dict[str, tuple[str, ...]]] = {"open": ("nonsense_names", "published")}

    people_per_group: int = Field(10, ge=4)
    documents_per_fact: int = Field(2, ge=1, le=30)
    nonsense_names: bool = False
    published: str = ""


class Semantic(SetSection):
    """A hierarchy of categories; `documents` in all (open), or documents of one sentence for each fact (tiny).

    tiny: two levels, one category for every three members.
    """

    at_full_size: ClassVar[dict[str, Any]] = {"categories": 110}
    only: ClassVar[dict[str, tuple[str, ...]]] = {
        "open": ("documents", "questions_per_split"),
        "tiny": ("documents_per_fact",),
    }

    categories: int = Field(32, ge=12)
    documents: int = Field(2200, ge=1)
    questions_per_split: int = Field(400, ge=4)
    documents_per_fact: int = Field(1, ge=1)


class Process(SetSection):
    """A transform of terms with uncommon rules over so many named functions (tiny: two steps over so many nouns)."""

    at_full_size: ClassVar[dict[str, Any]] = {"functions": 6, "questions_per_split": 200}
    only: ClassVar[dict[str, tuple[str, ...]]] = {"open": ("documents",), "tiny": ("documents_per_fact",)}

    functions: int = Field(24, ge=4)
    documents: int = Field(1000, ge=1)
    questions_per_split: int = Field(60, ge=4)
    documents_per_fact: int = Field(1, ge=1)


class Data(Section):
    """Which sets are made, and how large; a set that is left out is not made."""

    reversals: Reversals | None = None
    syllogisms: Syllogisms | None = None
    reversal_curse: ReversalCurse | None = Field(None, alias="reversal-curse")
    semantic: Semantic | None = None
    process: Process | None = None

    def sets(self) -> dict[str, SetSection]:
        """The chosen sets by name."""
        fields = type(self).model_fields
        chosen = {field.alias or name: getattr(self, name) for name, field in fields.items()}
        return {name: section for name, section in chosen.items() if section is not None}
