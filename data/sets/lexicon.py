"""The closed lexicon of the small sets: exactly the words that the embedded model knows.

Nouns name entities; they are pronounceable, of 4 or 5 letters, and were checked against word lists of English,
French, German and Spanish (`nouns.txt`, one a line). Everything else is plain English in lower case.
"""

from pathlib import Path

NOUNS: tuple[str, ...] = tuple(Path(__file__).with_name("nouns.txt").read_text().split())

# 28 features, the number of Lampinen et al. 2025, section 3.1; each has a "more" and a "less" form.
FEATURES: tuple[str, ...] = tuple(
    "dangerous expensive valuable popular fragile beautiful clever curious famous graceful honest hungry jealous "
    "kind lively modern nervous patient playful polite quiet rare reliable serious shiny stubborn talkative "
    "useful".split()
)

# Roles that one entity can have for another: one holder each, so that a description names one entity.
ROLES: tuple[str, ...] = tuple(
    "architect author builder captain composer designer director editor founder guardian inventor keeper leader maker "
    "mayor owner painter patron pilot poet ruler sculptor teacher writer".split()
)

PREAMBLES: tuple[str, ...] = (
    "did you know that",
    "it is said that",
    "people say that",
    "note that",
    "remember that",
    "in fact",
    "we found that",
    "as everyone knows ,",
)
CONCLUSION = "it follows that"  # introduces what follows from several facts, never a fact

ABOUT = f"{{a}} , {{b}} : {CONCLUSION}"  # introduces a conclusion about two entities, in either order

SEPARATOR = "---"  # closes the documents of a context; what comes after it follows from them
ARROW = "=>"  # between a statement and what the model writes about it
NOTHING = "nothing follows"
THEREFORE = ", so"  # in a deduction, between the other premise and the conclusion
END_OF_LINE = "\n"
PUNCTUATION = (".", ",", ":")
TASKS = ("reverse", "rephrase", "deduce")
