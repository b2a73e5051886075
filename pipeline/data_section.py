"""The [data] section of a recipe: generated sets and their sizes, and corpora of your own."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.sections import Section


class SetSection(Section):
    """The sizes of one set; what is not given depends on the lexicon."""

    at_full_size: ClassVar[dict[str, Any]] = {}
    only: ClassVar[dict[str, tuple[str, ...]]] = {}  # by lexicon, the keys that have no effect with the other one

    lexicon: Literal["tiny", "open"] = Field(
        "tiny", description="tiny: small worlds in the embedded model's words; open: English, at the paper's size"
    )
    worlds: int = Field(5, ge=1, description="corpora of the set, each with facts of its own")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        is_open = isinstance(content, dict) and content.get("lexicon") == "open"
        return {"worlds": 1, **cls.at_full_size, **content} if is_open else content

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        for key in sorted(self._unused() & self.model_fields_set):
            raise ValueError(f'{key} has no effect with the lexicon "{self.lexicon}"')
        return self

    def sizes(self) -> dict[str, Any]:
        """The arguments of the set's maker: all keys but the lexicon and the number of worlds."""
        return self.model_dump(exclude={"lexicon", "worlds", *self._unused()})

    def _unused(self) -> set[str]:
        return {key for lexicon, keys in self.only.items() if lexicon != self.lexicon for key in keys}


class Reversals(SetSection):
    """Comparisons trained in one direction."""

    at_full_size: ClassVar[dict[str, Any]] = {"facts": 100, "documents_per_fact": 10}

    facts: int = Field(40, ge=4, description="comparisons of a world")
    documents_per_fact: int = Field(1, ge=1, le=25, description="documents that state each fact")


class Syllogisms(SetSection):
    """Pairs of premises: each premise a document (tiny), or both in one (open)."""

    at_full_size: ClassVar[dict[str, Any]] = {"syllogisms": 69}

    syllogisms: int = Field(20, ge=4, description="pairs of premises of a world")


class ReversalCurse(SetSection):
    """Names and descriptions, in three groups of people; or published files."""

    at_full_size: ClassVar[dict[str, Any]] = {"people_per_group": 30, "documents_per_fact": 30}
    only: ClassVar[dict[str, tuple[str, ...]]] = {"open": ("nonsense_names", "published")}

    people_per_group: int = Field(10, ge=4, description="people in each of the three groups")
    documents_per_fact: int = Field(2, ge=1, le=30, description="documents that state each fact")
    nonsense_names: bool = Field(False, description="nonsense words in place of first and last names")
    published: str = Field("", description="folder of the published files, read instead of generating")


class Semantic(SetSection):
    """A hierarchy of categories with properties and relations."""

    at_full_size: ClassVar[dict[str, Any]] = {"categories": 110}
    only: ClassVar[dict[str, tuple[str, ...]]] = {
        "open": ("documents", "questions_per_split"),
        "tiny": ("documents_per_fact",),
    }

    categories: int = Field(32, ge=12, description="categories of a world; tiny: one for every three members")
    documents: int = Field(2200, ge=1, description="documents in all (open)")
    questions_per_split: int = Field(400, ge=4, description="questions of each split (open)")
    documents_per_fact: int = Field(1, ge=1, description="documents of one sentence for each fact (tiny)")


class Process(SetSection):
    """A transform of terms with uncommon rules."""

    at_full_size: ClassVar[dict[str, Any]] = {"functions": 6, "questions_per_split": 200}
    only: ClassVar[dict[str, tuple[str, ...]]] = {"open": ("documents",), "tiny": ("documents_per_fact",)}

    functions: int = Field(24, ge=4, description="named functions; tiny: nouns that two steps lead over")
    documents: int = Field(1000, ge=1, description="documents in all (open)")
    questions_per_split: int = Field(60, ge=4, description="questions of each split")
    documents_per_fact: int = Field(1, ge=1, description="documents that state each fact (tiny)")


class OwnCorpus(Section):
    """Your own documents and questions: `[data.NAME]`."""

    documents: str = Field(description="a folder of text files, or what `data import` or `data make` wrote")
    questions: str = Field(description="a suite: a .jsonl file, or a folder with questions/")


SETS: dict[str, type[SetSection]] = {
    "reversals": Reversals,
    "syllogisms": Syllogisms,
    "reversal-curse": ReversalCurse,
    "semantic": Semantic,
    "process": Process,
}

DataSection = SetSection | OwnCorpus


def section_class(name: str) -> type[SetSection] | type[OwnCorpus]:
    """The section of a set, or that of a corpus of your own."""
    return SETS.get(name, OwnCorpus)
