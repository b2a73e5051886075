"""The keys of a recipe's [train] section: what is learned, how much of it, how it is laid out, how it is computed."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.set_sections import Section
from train.run.finetune_run import Lora

STEPS = 240
DOCUMENTS, REPLAY = "documents", "replay"


class TrainingTexts(Section):
    """What all arms of a study share but their methods.

    The budget is one of `steps`, `tokens` (that are learned) and `epochs`; 0 is none. It is that of the first arm; the
    others `match` it in steps or in tokens. `batch_tokens`, if above 0, bounds the tokens of a batch in place of
    `batch_size`. `mix` gives shares of tokens to "documents", to methods by family or name, and to "replay", which is
    general text from the folder `replay`; without it all texts occur equally often.
    """

    steps: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0)
    epochs: float = Field(0.0, ge=0)
    match: Literal["steps", "tokens"] = "steps"
    batch_tokens: int = Field(0, ge=0)
    mix: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field({})
    replay: str = ""
    layout: Literal["auto", "packed", "padded"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        filled = dict(content)
        if not any(content.get(key) for key in ("steps", "tokens", "epochs")):
            filled["steps"] = content.get("steps", STEPS)
        if content.get("tokens"):
            filled.setdefault("match", "tokens")
        return filled

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        budget = {"train.steps": self.steps, "train.texts.tokens": self.tokens, "train.epochs": self.epochs}
        if sum(value > 0 for value in budget.values()) != 1:
            told = ", ".join(f"{key} = {value}" for key, value in budget.items())
            raise ValueError(f"one budget must be above 0 and the others 0: {told}")
        if self.mix and math.fsum(self.mix.values()) == 0:
            raise ValueError("the weights of the mix sum to zero")
        if self.mix and DOCUMENTS not in self.mix:
            raise ValueError('a mix needs a weight for "documents"')
        if bool(self.replay) != bool(self.mix.get(REPLAY)):
            raise ValueError('a replay folder needs a weight above 0 for "replay" in the mix, and that weight a folder')
        return self


class Adapters(Section):
    """Low-rank adapters in place of full weights; they are merged into the checkpoint. Rank 0 means none."""

    rank: int = Field(0, ge=0)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()


class TrainingComputation(Section):
    """How all arms of a study are computed, and what is saved on the way.

    A rank that makes no progress within a step for `stall_seconds` costs its group a restart. With `ranks_per_run`
    above 0, the ranks are parted into groups of so many, which train runs side by side.
    """

    accumulation: int = Field(1, ge=1)
    activation_checkpointing: bool = False
    offload: Literal["none", "cpu", "nvme"] = "none"
    offload_folder: str = ""
    lora: Adapters = Adapters()
    checkpoint_every: int = Field(0, ge=0)
    keep_last: int = Field(2, ge=1)
    keep_every: int = Field(0, ge=0)
    stall_seconds: float = Field(1800.0, gt=0)
    ranks_per_run: int = Field(0, ge=0)

    def engine_settings(self) -> dict[str, Any]:
        """How a run is computed and what is saved on the way, as `FinetuneRun` names it."""
        names = "accumulation activation_checkpointing offload offload_folder checkpoint_every keep_last keep_every"
        settings = {name: getattr(self, name) for name in names.split()}
        return settings | {"lora": Lora(**self.lora.model_dump()) if self.lora.rank else None}
