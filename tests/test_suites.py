"""Your own question suites: every wrong line is reported by its number, a valid file becomes questions."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.records import Document, Question
from data.sets.lexicon import NOUNS
from data.store import write_folder
from data.suites import read_suite_file

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"prompt": "glon are", "options": ["femp", "troff"], "answer": "troff", "split": "reversal"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_sound_file_becomes_questions(tmp_path: Path) -> None:
    more = {"id": 7, "corpus": "w", "requires": ["d"], "fact_id": "f", "inference": "turned", "source": "me"}
    first, second = read_suite_file(write(tmp_path / "q.jsonl", GOOD, "", GOOD | {"answer": 0} | more))
    assert (first.prompt, first.options, first.answer, first.split) == ("glon are", ("femp", "troff"), 1, "reversal")
    assert (first.corpus, first.requires, first.fact_id) == ("corpus", (), first.question_id)
    assert second == Question("7", "w", "reversal", "turned", "glon are", ("femp", "troff"), 0, "f", ("d",))
    also = {"options": ["femp", "troff", "yomp"], "also_right": ["yomp"], "also_true": [0]}
    (third,) = read_suite_file(write(tmp_path / "also.jsonl", GOOD | also))
    assert (third.answer, third.also_right, third.also_true) == (1, (2,), (0,))


def test_the_corpus_may_be_called_world(tmp_path: Path) -> None:
    rows = [GOOD | {"world": "w"}, GOOD | {"corpus": "w", "prompt": "femp are"}]
    assert [question.corpus for question in read_suite_file(write(tmp_path / "q.jsonl", *rows))] == ["w", "w"]


def test_ids_come_from_content(tmp_path: Path) -> None:
    other = GOOD | {"prompt": "femp are"}
    one = read_suite_file(write(tmp_path / "a.jsonl", GOOD, other))
    two = read_suite_file(write(tmp_path / "b.jsonl", other, GOOD))
    assert one == two[::-1] and one[0].question_id != one[1].question_id


words = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


@given(
    st.builds(
        Question,
        question_id=words,
        corpus=words,
        split=words,
        inference=words,
        prompt=words,
        options=st.lists(words, min_size=4, max_size=5, unique=True).map(tuple),
        answer=st.integers(0, 1),
        fact_id=words,
        requires=st.lists(words, max_size=3).map(tuple),
        also_right=st.sampled_from([(), (2,)]),
        also_true=st.sampled_from([(), (3,)]),
        joiner=st.sampled_from([" ", "", "\n"]),
    )
)
def test_any_question_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, question: Question
) -> None:
    path = tmp_path_factory.getbasetemp() / "question.jsonl"
    assert read_suite_file(write(path, dataclasses.asdict(question))) == [question]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{", "broken JSON"),
        ("[]", "not an object"),
        ({"prompt": "a", "options": ["b", "c"], "answer": 0}, 'no "split"'),
        (GOOD | {"prompt": 3}, '"prompt" is 3'),
        (GOOD | {"prompt": "  "}, '"prompt"'),
        (GOOD | {"options": ["femp"]}, '"options"'),
        (GOOD | {"options": "femp"}, '"options"'),
        (GOOD | {"options": ["femp", None]}, '"options" is null'),
        (GOOD | {"options": ["troff", "troff "]}, "two options are the same"),
        (GOOD | {"answer": 2}, '"answer" is 2'),
        (GOOD | {"answer": -1}, '"answer" is -1'),
        (GOOD | {"answer": True}, '"answer" is true'),
        (GOOD | {"answer": "yomp"}, '"answer" is "yomp"'),
        (GOOD | {"requires": "d"}, '"requires"'),
        (GOOD | {"also_right": "femp"}, '"also_right" is not a list'),
        (GOOD | {"also_right": ["yomp"]}, '"also_right" is "yomp"'),
        (GOOD | {"also_right": ["femp"], "also_true": [0]}, "name an option twice"),
        (GOOD | {"also_true": ["troff"]}, "name an option twice"),
        (GOOD | {"joiner": ", "}, '"joiner" is ", "'),
        (GOOD | {"joiner": None}, '"joiner" is null'),
        (GOOD | {"joiner": [" "]}, '"joiner" is ['),
        (GOOD | {"copus": "w"}, 'did you mean "corpus"?'),
        ({**GOOD, "promt": "x"} | {"prompt": "y"}, ""),
        ('{"prompt": "\\ud800", "options": ["b", "c"], "answer": 0, "split": "s"}', "surrogate"),
    ],
)
def test_a_wrong_line_is_reported_by_its_number(tmp_path: Path, row: object, expected: str) -> None:
    path = write(tmp_path / "q.jsonl", GOOD, "", row)
    if not expected:  # a key beside the right one is the user's own
        assert len(read_suite_file(path)) == 2
        return
    with pytest.raises(InputError) as caught:
        read_suite_file(path)
    assert caught.value.what.startswith("line 3: ") and expected in caught.value.what
    assert caught.value.where == f"{path}:3"


def test_all_wrong_lines_are_reported_at_once(tmp_path: Path) -> None:
    rows = [GOOD | {"answer": 9, "prompt": str(number)} for number in range(8)]
    with pytest.raises(InputError, match=r"line 2: .*; line 6: .*; and 3 more") as caught:
        read_suite_file(write(tmp_path / "q.jsonl", GOOD, *rows))
    assert "line 7" not in str(caught.value)


def test_a_question_that_comes_twice_is_reported_with_the_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 3: the same question as line 1"):
        read_suite_file(write(tmp_path / "q.jsonl", GOOD, GOOD | {"prompt": "other"}, GOOD))


def test_bytes_that_are_no_text_are_reported(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match="line 2: not UTF-8"):
        read_suite_file(tmp_path / "q.jsonl")


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path, tmp_path / ("x" * 300), Path(f"{tmp_path}/a\0b")):
        with pytest.raises(InputError, match="cannot be read"):
            read_suite_file(path)
    with pytest.raises(InputError, match="no questions"):
        read_suite_file(write(tmp_path / "q.jsonl", ""))


def evaluate(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "evaluate", "--model", "models/tiny", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)


@pytest.mark.parametrize("flags", [(), ("--documents", "documents")])
def test_in_context_needs_documents_of_the_questions_corpus(tmp_path: Path, flags: tuple[str, ...]) -> None:
    write_folder(tmp_path / "documents", Document, [Document("a", "glon are femp", "other")])
    suite = write(tmp_path / "q.jsonl", GOOD)
    words = [tmp_path / word if word == "documents" else word for word in flags]
    done = evaluate("--suite", suite, *words, "--contexts", "none,all", "--out", tmp_path / "out")
    assert done.returncode == 2 and "documents" in done.stderr
    assert not (tmp_path / "out" / "report").exists()


@pytest.mark.timeout(600)
def test_your_own_suite_is_evaluated_with_imported_documents(tmp_path: Path) -> None:
    facts = list(zip(NOUNS[:4], NOUNS[4:8], strict=True))
    rows = [{"text": f"{one} are more curious than {other}"} for one, other in facts]
    write(tmp_path / "facts.jsonl", *rows)
    options = [one for one, _ in facts]
    questions = [
        {"prompt": f"{other} are less curious than", "options": options, "answer": one, "split": "turned"}
        for one, other in facts
    ]
    suite = write(tmp_path / "mine.jsonl", *questions)
    command = ["data", "import", str(tmp_path / "facts.jsonl"), "--out", str(tmp_path / "corpus")]
    subprocess.run([sys.executable, "-m", "pipeline", *command], cwd=ROOT, check=True, capture_output=True)
    flags = ("--documents", tmp_path / "corpus", "--contexts", "none,all", "--engines", "1", "--out", tmp_path / "out")
    done = evaluate("--suite", suite, *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["suites"]["mine"]["turned"]["base+all"]["n"] == 4
    assert report["suites"]["mine"]["turned"]["base+all"]["accuracy"] == 1.0
    assert set(report["suites"]["mine"]["turned"]) == {"base", "base+all"}
