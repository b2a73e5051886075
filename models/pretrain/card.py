"""The embedded model's card: its training data and its scores, from a run's own figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.sets.lexicon import FEATURES, ROLES
from models.pretrain.measure import Share
from models.pretrain.tokenizer import vocabulary
from train.plan.defaults import parameters_of

TEXT = """\
---
license: mit
library_name: transformers
tags: [in-context-learning, synthetic]
---
# tiny

A Llama of {parameters:,} parameters that looks things up: given facts of a nonsense world in its context, it completes
restatements, reversals, conclusions of two premises, inherited properties and processes of two steps, and writes them
down when asked. It knows nothing else.

**Trained on** documents that were sampled for it, each a fresh world whose bindings no other document shares
({tokens:,} tokens, seed {seed}, {steps} steps in {minutes:.0f} minutes on {threads} CPU threads). So it can know
nothing about any test world: without context it is never above chance. No text from anywhere else was used.

**Language.** One token a word, a closed vocabulary of {vocabulary} words: nonsense nouns, {features} features, {roles}
roles, and the words around them. Any other word is refused. After the documents of a context stands a line `---`; then
plain statements, or `reverse : FACT =>`, `rephrase : FACT =>`, `deduce : FACT =>` (which may answer
`nothing follows`). The prompts are in `prompts.toml`. Window: {window} tokens.

**Scores** on fresh worlds that no pretraining document shares, 95% Wilson intervals. Choices are among 4 entities (hard
ones, from like facts of the same world); generations are sampled at temperature 0.7 and checked against the world's
closure.

| worlds | measure | share |
|---|---|---|
{rows}

Made and measured by `python -m pipeline pretrain --seed {seed}`; measured again by
`python -m pipeline pretrain --measure-only`.
"""


def write_card(folder: Path, plan: Mapping[str, Any], measured: Mapping[str, Mapping[str, Share]]) -> None:
    """Write `README.md` into the model folder."""
    rows = [f"| {name} | {key} | {share} |" for name, part in measured.items() for key, share in part.items()]
    steps = plan["num_steps"] + plan["linked_steps"]
    text = TEXT.format(
        parameters=parameters_of(folder),
        tokens=steps * plan["tokens_per_step"],
        seed=plan["seed"],
        steps=steps,
        minutes=plan["seconds"] / 60,
        threads=plan["threads"],
        vocabulary=len(vocabulary()),
        features=len(FEATURES),
        roles=len(ROLES),
        window=plan["window"],
        rows="\n".join(rows),
    )
    (folder / "README.md").write_text(text)
