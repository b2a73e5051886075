"""The replay stage: general text that is trained beside the documents, so that a model keeps what it can do.

Either a folder of the user, or texts that the model writes itself before the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from augment_service.chat import NO_FRAME, Frame, frame
from augment_service.jobs import ShardedJob
from augment_service.model_folder import check_model, load_tokenizer
from augment_service.replay import DOCUMENTS, HELD_OUT, MAX_TOKENS, plan_replay, replay_key, seal_replay
from cluster.memory import gpu_bytes
from data.errors import InputError
from pipeline.models import Model
from pipeline.sections import TrainRun
from pipeline.stages.data import find_texts
from pipeline.stages.resources import LazyCluster, LazyEngines, Setting, do_units
from pipeline.stages.train import inner
from pipeline.workspace import Workspace
from train.plan.defaults import SMALL, parameters_of
from train.texts.sources import TextSource, shards_of

AUTO, SELF, NONE = "auto", "self", "none"
MIN_TEXTS, MAX_TEXTS = 8, 4096
_BYTES_PER_TEXT = 512  # about 128 tokens


@dataclass(frozen=True)
class Replay:
    """A source of general text. `folder` is where the model writes it, None if it is the user's.

    The model is to write `num_texts` texts of at most `max_tokens`, inside the chat template `frame` if it has one.
    """

    source: TextSource
    folder: Path | None = None
    num_texts: int = 0
    max_tokens: int = 0
    frame: Frame = NO_FRAME

    @property
    def held_out(self) -> Path | None:
        """Texts of the model that are not trained, None if it writes none."""
        return self.folder / HELD_OUT if self.folder else None

    def job(self, model: Model, seed: int) -> ShardedJob | None:
        """What is left to be written, None if it is all there."""
        if self.folder is None:
            return None
        sizes = {"num_texts": self.num_texts, "max_tokens": self.max_tokens}
        return plan_replay(self.folder, model=model.fingerprint, frame=self.frame, seed=seed, **sizes)


def plan(
    setting: Setting,
    section: TrainRun,
    model: Model,
    others: Sequence[TextSource],
    root: Path,
    *,
    alone: bool = False,
    read_only: bool = False,
) -> Replay | None:
    """The replay of a run that trains on the sources `others`; it is printed.

    What the model writes, and files that are no finished documents, go into folders of `root`. With `alone` the others
    are a teacher's distributions, with which no texts can be mixed. With `read_only` nothing is imported, and what is
    not written yet is only named. Raises InputError.
    """
    kind, share = _choose(setting, section, model, alone=alone, read_only=read_only), section.replay_share
    if kind == NONE:
        return None
    if kind != SELF:
        setting.say("replay", f"{share:.0%} of the tokens are texts of {kind}")
        folder = inner(Path(kind), DOCUMENTS) if read_only else find_texts(Path(kind), root / "import", setting.say)
        return Replay(TextSource(str(folder), share=share))
    what = f"{share:.0%} of the tokens are texts that the model writes before the training"
    setting.say("replay", f"{what}; --replay none leaves them out")
    return None if read_only else _plan_own(setting, section, model, others, root)


def _choose(setting: Setting, section: TrainRun, model: Model, *, alone: bool, read_only: bool) -> str:
    """The setting `replay` without "auto": "self" for a model that has something to lose and that engines can serve."""
    if section.replay != AUTO:
        if alone and section.replay != NONE:
            what, hint = "texts of replay have no distributions of a teacher", "leave one of the two out"
            raise InputError(what, where="train.replay", hint=hint)
        return section.replay
    assert model.folder is not None
    if alone or parameters_of(model.folder) < SMALL or setting.engine.kind == "fake":
        return NONE
    try:
        if not (setting.engine.service or read_only):  # for a plan, a hub model's weights are not downloaded
            check_model(setting.spec(model), on_cpu=not setting.cluster.address and gpu_bytes() is None)
    except InputError as error:
        setting.say("replay", f"none: the model cannot write it here ({error.what})")
        return NONE
    return SELF


def _plan_own(setting: Setting, section: TrainRun, model: Model, others: Sequence[TextSource], root: Path) -> Replay:
    """Texts of the model's own, about as many as their share beside one pass over the others."""
    assert model.folder is not None
    tokenizer = load_tokenizer(model.folder)
    around = frame(tokenizer, "", where="train.replay") if tokenizer.chat_template else NO_FRAME
    share = section.replay_share
    num_bytes = sum(path.stat().st_size for source in others for path in shards_of(source))
    texts = num_bytes * share / (1 - share) / _BYTES_PER_TEXT
    # A power of two: other documents of about the same size need no other texts.
    num_texts = min(max(1 << round(texts).bit_length(), MIN_TEXTS), MAX_TEXTS)
    max_tokens = min(MAX_TOKENS, (section.max_text_tokens or MAX_TOKENS * 2) // 2)  # a request precedes some
    folder = root / replay_key(model.fingerprint, num_texts, max_tokens, around, setting.seed)[:16]
    return Replay(TextSource(str(folder / DOCUMENTS), share=share), folder, num_texts, max_tokens, around)


def write(setting: Setting, model: Model, replay: Replay, job: ShardedJob, cluster: LazyCluster) -> None:
    """Let engines write the texts; they end before the training needs the memory."""
    assert replay.folder is not None
    with Workspace(replay.folder).locked(), LazyEngines(setting, model, cluster) as engines:
        do_units(setting, engines, job.units(), "replay")
        finish(setting, replay, job)


def finish(setting: Setting, replay: Replay, job: ShardedJob | None) -> None:
    """Seal what the units have written."""
    if job is not None and replay.folder is not None:
        setting.say("replay", f"{seal_replay(replay.folder, job, replay.frame):,} texts in {replay.folder / DOCUMENTS}")
