"""Replay: general text that a model writes itself before the training; when it is on, and what becomes of it."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from augment_service.chat import NO_FRAME, Frame
from augment_service.engines.protocol import EngineSpec
from augment_service.replay import DOCUMENTS, REQUESTS, ReplayTask, plan_replay, seal_replay, whole_sentences
from augment_service.worker import EngineWorker
from benchmarks.real_models import SMOLLM2, real_model
from data.errors import InputError
from data.records import Conversation, Document, Generation, Refusal
from data.store import read_folder, write_folder
from pipeline.cli import main
from pipeline.models import find_model
from pipeline.sections import Cluster, Engine, TrainRun
from pipeline.stages.replay import Replay, plan
from pipeline.stages.resources import Setting
from pipeline.workspace import Workspace
from train.texts.sources import TextSource, is_conversation

CHAT = Frame("<user>", "<assistant>")
OPENING = Document("o1", "The", "replay")


def answer_of(text: str, *, frame: Frame = NO_FRAME, reason: str = "stop") -> list[str]:
    answer = ReplayTask(frame, 8, 0)._answer(OPENING, Generation("o1", text, reason, 3))
    return [row.text for row in answer.answers]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One came. Two went. Three we", "One came. Two went."),
        ("One came.\n\nTwo went. Thr", "One came.\n\nTwo went."),
        ("It came. It came. It ca", "It came. It came."),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_a_text_that_was_cut_off_ends_with_its_last_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_an_answer_becomes_a_text_or_a_conversation() -> None:
    assert answer_of(" otter swims") == ["The otter swims"]
    assert answer_of(" otter swims. It di", reason="length") == ["The otter swims."]
    assert answer_of(" otter swi", reason="length") == answer_of(" \n") == []
    (text,) = answer_of(' "yes"\n', frame=CHAT)
    assert json.loads(text) == [{"role": "user", "content": "The"}, {"role": "assistant", "content": '"yes"'}]


def test_a_refused_opening_stays_refused() -> None:
    refusal = Refusal("o1", "window", "too long", "shorten it")
    assert ReplayTask(CHAT, 8, 0)._answer(OPENING, refusal).refusals == (refusal,)


def test_texts_are_written_once_and_differ_from_each_other(tmp_path: Path) -> None:
    sizes = {"num_texts": 60, "max_tokens": 40}
    worker = EngineWorker(EngineSpec("fake", "m"))
    job = plan_replay(tmp_path, model="m", frame=CHAT, seed=0, **sizes)
    assert job is not None
    for unit in job.units():
        worker.run_unit(*unit.args)
    assert plan_replay(tmp_path, model="m", frame=CHAT, seed=0, **sizes).units() == []
    assert seal_replay(tmp_path, job, CHAT) > 30
    assert is_conversation(TextSource(str(tmp_path / DOCUMENTS)))
    rows = [json.loads(row.text) for row in read_folder(tmp_path / DOCUMENTS, Conversation)]
    asked, answers = ({turns[place]["content"] for turns in rows} for place in (0, 1))
    assert asked <= set(REQUESTS)
    assert len(answers) > len(asked)
    assert plan_replay(tmp_path, model="m", frame=CHAT, seed=0, **sizes) is None


# ---- when it is on


def planned(tmp_path: Path, model: Path | str, engine: Engine | None = None, *, alone: bool = False, **train: object):
    """What is trained beside a document, and what the user was told."""
    engine = engine or Engine()
    said = StringIO()
    setting = Setting(Workspace(tmp_path / "work"), Console(file=said, width=200), engine, Cluster(), 0)
    write_folder(tmp_path / "documents", Document, [Document("d", "Otters swim. " * 400, "c")])
    section, found = TrainRun(**train), find_model(str(model), engine)
    others = [TextSource(str(tmp_path / "documents"))]
    return plan(setting, section, found, others, tmp_path / "replay", alone=alone), said.getvalue()


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return real_model(SMOLLM2)


@pytest.mark.real
def test_a_chat_model_answers_requests_through_its_template(tmp_path: Path, smollm2: Path) -> None:
    found, said = planned(tmp_path, smollm2, max_text_tokens=100)
    assert isinstance(found, Replay) and "10%" in said and "--replay none" in said
    assert "<|im_start|>user" in found.frame.before
    assert (found.source.share, found.max_tokens) == (0.1, 50)
    more, _ = planned(tmp_path, smollm2, replay_share=0.5, max_text_tokens=100)
    assert more.num_texts > found.num_texts and more.folder != found.folder


@pytest.mark.real
@pytest.mark.parametrize("why", ["none", "a dry run", "a teacher"])
def test_it_can_be_left_out(tmp_path: Path, smollm2: Path, why: str) -> None:
    engine = Engine(kind="fake") if why == "a dry run" else None
    found, said = planned(
        tmp_path, smollm2, engine, alone=why == "a teacher", **({"replay": "none"} if why == "none" else {})
    )
    assert found is None and not said


@pytest.mark.real
def test_a_model_that_no_engine_serves_is_trained_without_and_the_user_is_told(tmp_path: Path, smollm2: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in smollm2.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((smollm2 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    said = StringIO()
    setting = Setting(Workspace(tmp_path / "work"), Console(file=said, width=300), Engine(), Cluster(), 0)
    assert plan(setting, TrainRun(), find_model(str(folder), None), [], tmp_path / "replay") is None
    assert "NoSuchForCausalLM" in said.getvalue()


def test_the_embedded_model_has_nothing_to_lose(tmp_path: Path) -> None:
    assert planned(tmp_path, "models/tiny") == (None, "")


def test_a_folder_of_files_is_imported_and_a_wrong_one_refused(tmp_path: Path) -> None:
    (tmp_path / "general").mkdir()
    (tmp_path / "general" / "a.txt").write_text("Birds fly south in autumn.")
    found, said = planned(tmp_path, "models/tiny", replay=str(tmp_path / "general"), replay_share=0.2)
    assert found.source.share == 0.2 and "20%" in said
    assert [row.text for row in read_folder(Path(found.source.folder), Document)] == ["Birds fly south in autumn."]
    with pytest.raises(InputError, match="no such file"):
        planned(tmp_path, "models/tiny", replay=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="teacher"):
        planned(tmp_path, "models/tiny", alone=True, replay=str(tmp_path / "general"))


# ---- as a user


@pytest.mark.real
@pytest.mark.timeout(900)
def test_train_writes_replay_before_and_learns_it_beside_the_documents(
    tmp_path: Path, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"The lighthouse of Orvel has {number} lamps. " * 8)
    train = ["train", "--documents", str(tmp_path / "texts"), "--model", str(smollm2), "--out", str(tmp_path / "out")]
    train += ["--steps", "4", "--batch-size", "4", "--max-text-tokens", "120", "--replay-share", "0.3"]
    assert main(train) == 0
    assert "30% of the tokens" in capsys.readouterr().out
    (folder,) = (tmp_path / ".replay").glob("*/documents")
    rows = list(read_folder(folder, Conversation))
    assert rows and all(json.loads(row.text)[1]["content"] for row in rows)
    shares = json.loads((tmp_path / "out" / "plan.json").read_text())["source_shares"]
    assert shares[1] == pytest.approx(0.3, abs=0.1)
    assert main(train) == 0  # finished: neither Ray nor an engine starts
    assert "starting" not in capsys.readouterr().out
