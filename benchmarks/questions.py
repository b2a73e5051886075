"""How good written questions are: on generated sets an oracle knows which options are true.

    python -m benchmarks.questions SUITE --documents SET [--json OUT]

SUITE is what `entail questions --documents SET` wrote. A question is sound if its marked answer is true by the set's
documents, and none of its other options is. Precision: the share of the kept questions that are sound. Recall: the
share of the sound ones, among all that got options, that are kept.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from augment_service.questions.drafts import Draft
from data.records import Document, Question
from data.sets.logics import logic_of
from data.sets.oracle import TRUE, Oracle, answer_statement
from data.store import read_folder

ALL = "all"


def is_true(oracle: Oracle, prompt: str, option: str) -> bool:
    """Whether what a prompt and an option say together is true."""
    statement = answer_statement(oracle.logic, prompt, option)
    return statement is not None and oracle.classify(statement)[0] in TRUE


def measure(suite: Path, documents: Path) -> dict[str, dict[str, float]]:
    """Counts and shares by writer."""
    texts: dict[str, list[Document]] = defaultdict(list)
    for document in read_folder(documents, Document):
        texts[document.corpus].append(document)
    oracles = {corpus: Oracle(members, logic_of(corpus)) for corpus, members in texts.items()}
    rows = [(one.corpus, one.inference, one.prompt, one.options, one.answer, True)
            for one in read_folder(suite / "questions", Question)]  # fmt: skip
    rows += [(one.corpus, one.writer, one.prompt, one.options, one.right, False)
             for one in read_folder(suite / "dropped", Draft) if one.options]  # fmt: skip
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for corpus, writer, prompt, options, right, kept in rows:
        truths = [is_true(oracles[corpus], prompt, option) for option in options]
        is_sound = truths[right] and sum(truths) == 1
        for name in (writer, ALL):
            counts[name]["checked"] += 1
            counts[name]["kept"] += kept
            counts[name]["sound"] += is_sound
            counts[name]["sound_and_kept"] += is_sound and kept
            counts[name]["answer_true"] += truths[right]
            counts[name]["wrong_option_true"] += sum(truths) > truths[right]
    return {name: {**one, **_shares(one)} for name, one in counts.items()}


def _shares(one: dict[str, int]) -> dict[str, float]:
    return {
        "sound_share": one["sound"] / one["checked"],
        "precision": one["sound_and_kept"] / max(1, one["kept"]),
        "recall": one["sound_and_kept"] / max(1, one["sound"]),
    }


def main() -> None:
    """Print the figures, and write them where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    found = measure(flags.suite, flags.documents / "documents")
    for name, one in found.items():
        print(
            name,
            " ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in one.items()
            ),
        )
    if flags.json:
        flags.json.write_text(json.dumps({"questions": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
