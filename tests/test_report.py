"""The report's contract, its words, its determinism, and the page as a browser sees it."""

import html
import io
import itertools
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.errors import InputError
from data.records import Refusal
from evaluate.fanout import Refused
from evaluate.report.claims import percent, points, state_claim
from evaluate.report.content import ReportInput, build_report, write_report
from evaluate.report.legend import (
    CONDITIONS,
    MAX_BARS,
    label_condition,
    order_conditions,
    order_splits,
    rank_conditions,
    shown_conditions,
    style_conditions,
)
from evaluate.report.page import flatten, format_duration, render_page
from evaluate.report.table import print_report
from evaluate.statistics import Outcome

HOSTILE = '<script>document.body.dataset.stolen = 1</script> the glon & the "femp"'
RATES = {"pretrained": 0.25, "icl": 0.97, "finetuned": 0.3, "rephrased": 0.35, "augmented": 0.98}
SPLITS = {"reversals": ("trained", "reversal", "contradiction"), "reversal-curse": ("trained", "reversal")}


def make_outcomes(rates: dict[str, float] = RATES) -> list[Outcome]:
    """Contradictions have two options and two kinds; of the curse's reversals a wrong answer in three is half right."""
    generator = random.Random(3)
    rows = []
    for suite, splits in SPLITS.items():
        for split, (condition, rate) in itertools.product(splits, rates.items()):
            likely = 0.99 if split == "trained" and condition != "pretrained" else rate
            chance, kinds = (0.5, ("reversal-more", "reversal-less")) if split == "contradiction" else (0.25, (split,))
            weak = suite == "reversal-curse" and split == "reversal"
            for fact in range(60):
                right = float(generator.random() < likely)
                lenient, lenient_chance = (max(right, float(fact % 3 == 0)), 0.5) if weak else (right, chance)
                ids = (f"q{fact}", f"f{fact}", kinds[fact % len(kinds)])
                place = (suite, f"w{fact % 5}", split, condition)
                rows.append(Outcome(*place, *ids, right, chance, lenient, lenient_chance))
    return rows


def make_audit() -> dict[str, Any]:
    return {
        "num_documents": 76,
        "num_questions": 180,
        "num_tests": 120,
        "verbatim_in_documents": 0,
        "verbatim_in_augmentations": 111,
        "missing_requirements": 0,
        "methods": {
            "deduce": {"generated": 400, "kept": 300, "true": 250, "unread": 20, "distinct": 280},
            "foreign": {"generated": 9, "kept": 8, "distinct": 7},
        },
        "verification": {
            "deduce": {
                "verified": 300,
                "unsupported": 40,
                "contradicted": 8,
                "minority": 2,
                "false": 60,
                "false_rejected": 45,
            },
            "foreign": {"verified": 8, "unsupported": 1, "contradicted": 0, "minority": 0},
        },
        "examples": [
            {"document": HOSTILE, "method": "deduce", "text": HOSTILE, "reasoning": HOSTILE, "judgement": "false"},
            {"document": "a", "method": "deduce", "text": "b", "reasoning": "", "judgement": "true"},
        ],
        "question_examples": [
            {"prompt": HOSTILE, "options": ["femp", HOSTILE], "right": [0], "chosen": {"icl": 0, "finetuned": 1}}
        ],
    }


def make_input(**changes: Any) -> ReportInput:
    content = ReportInput(
        study="demo",
        model="models/tiny",
        fingerprint="0123456789abcdef",
        outcomes=make_outcomes(),
        stage_seconds={"augment": 61.2, "train": 185.0},
        wall_seconds=300.25,
        audit={suite: make_audit() for suite in SPLITS},
        recipe={"train": {"steps": 240, "learning_rate": 3e-3}, "methods": ["reverse"]},
        versions={"ray": "2.60.0"},
        losses={f"reversals/w0/{name}": [(0, 4.0), (10, 1.5), (20, 0.7)] for name in ("finetuned", "augmented")},
        command="make demo",
        mistakes={
            "reversals": {
                "condition": "augmented",
                "questions": [
                    {
                        "split": "reversal",
                        "prompt": HOSTILE,
                        "options": ["femp", HOSTILE],
                        "right": [0],
                        "chosen": 1,
                        "documents": [HOSTILE],
                        "sentences": [],
                        "inferences": [HOSTILE],
                        "written": HOSTILE,
                    },
                ],
            }
        },
        general={
            "texts": 24,
            "bytes": 9000,
            "refused": 0,
            "bits_per_byte": {
                "pretrained": {"value": 0.912},
                "finetuned": {"value": 1.0344, "change": 0.1224, "low": 0.0812, "high": 0.1636},
            },
            "ends": {"pretrained": {"share": 1.0, "n": 24}, "finetuned": {"share": 0.625, "n": 24}},
        },
        written=[replace(row, correct=float(row.condition == "icl")) for row in make_outcomes()],
    )
    return replace(content, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("report")
    write_report(make_input(), where)
    return where


def test_what_was_forgotten_is_in_the_page_and_in_the_table(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "Still wrong" in page and "✗ chosen" in page
    assert "What was forgotten" in page and "+0.122<small>[+0.081, +0.164]" in page
    shown = io.StringIO()
    print_report(json.loads((folder / "report.json").read_text()), Console(file=shown, width=200))
    assert "bits per byte pretrained 0.912; finetuned 1.034 (+0.122)" in shown.getvalue()
    assert "finetuned 62%" in shown.getvalue() and "answers that end" in page and "63%" not in shown.getvalue()
    assert "written answers, reversal: pretrained 0.00; icl 1.00; finetuned 0.00" in shown.getvalue()
    assert page.count("Written answers: ") == len(SPLITS)
    plain = render_page(build_report(make_input(general={}, written=())), {})
    assert "Written answers" not in plain and "answers that end" not in plain
    assert "forgotten" not in render_page(build_report(make_input(general={})), {})


def test_json_keeps_its_contract(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert (report["study"], report["model"], report["wall_seconds"]) == ("demo", "models/tiny", 300.25)
    assert set(report) >= {"stages", "audit", "differences", "versions", "recipe", "fingerprint"}
    assert {suite: tuple(order_splits(splits)) for suite, splits in report["suites"].items()} == SPLITS
    for splits in report["suites"].values():
        for split, cells in splits.items():
            assert order_conditions(cells) == list(CONDITIONS)
            for cell in cells.values():
                assert set(cell) == {"accuracy", "low", "high", "n", "chance", "level"}
                assert cell["level"] == "corpora"
                assert 0 <= cell["low"] <= cell["accuracy"] <= cell["high"] <= 1 and cell["n"] == 60
                assert cell["chance"] == (0.5 if split == "contradiction" else 0.25)


def test_kinds_of_steps_and_weaker_answers_are_told_apart(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert {suite: set(splits) for suite, splits in report["inferences"].items()} == {"reversals": {"contradiction"}}
    kinds = report["inferences"]["reversals"]["contradiction"]
    whole = report["suites"]["reversals"]["contradiction"]["finetuned"]["accuracy"]
    parts = [cells["finetuned"] for cells in kinds.values()]
    assert set(kinds) == {"reversal-more", "reversal-less"} and [part["n"] for part in parts] == [30, 30]
    assert sum(part["accuracy"] for part in parts) / 2 == pytest.approx(whole, abs=1e-5)
    assert {suite: set(splits) for suite, splits in report["lenient"].items()} == {"reversal-curse": {"reversal"}}
    strict, lenient = (report[part]["reversal-curse"]["reversal"]["finetuned"] for part in ("suites", "lenient"))
    assert lenient["accuracy"] > strict["accuracy"] + 0.1
    assert (strict["chance"], lenient["chance"], lenient["n"]) == (0.25, 0.5, 60)
    page = (folder / "report.html").read_text()
    assert "reversal, lenient" in page and "reversal-less" in page


def test_differences_are_points_on_the_same_questions(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    cells, pairs = report["suites"]["reversals"]["reversal"], report["differences"]["reversals"]["reversal"]
    known = {"icl-finetuned", "augmented-finetuned", "augmented-icl", "augmented-rephrased"}
    assert known < set(pairs) and len(pairs) == 10  # any two of five
    for pair, found in pairs.items():
        first, second = pair.split("-")
        assert found["difference"] == pytest.approx(
            100 * (cells[first]["accuracy"] - cells[second]["accuracy"]), abs=1e-3
        )
        assert found["low"] <= found["difference"] <= found["high"]
    assert pairs["icl-finetuned"]["low"] > 30 and abs(pairs["augmented-icl"]["difference"]) < 10


def test_a_resumed_study_reports_the_same(folder: Path, tmp_path: Path) -> None:
    shuffled = make_outcomes()
    random.Random(1).shuffle(shuffled)
    content = make_input(outcomes=shuffled, wall_seconds=9.0, stage_seconds={"train": 1.0})
    write_report(content, tmp_path)
    once, again = (json.loads((where / "report.json").read_text()) for where in (folder, tmp_path))
    for varying in ("wall_seconds", "stages", "versions"):
        once.pop(varying), again.pop(varying)
    assert once == again
    for name in ("accuracy.png", "accuracy.svg", "losses.png"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_page_says_what_the_verification_rejected(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    (table,) = re.findall(r'aria-label="Verification">(.*?)</table>', page, re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    assert rows[0][2:] == [
        "verified",
        "unsupported",
        "contradicted",
        "minority",
        "untrue of rejected",
        "rejected of untrue",
    ]
    assert rows[1][1:] == ["deduce", "300", "40", "8", "2", percent(45 / 50), percent(45 / 60)]
    assert rows[2][1:] == ["foreign", "8", "1", "0", "0", "–", "–"]


def test_page_loads_nothing_and_escapes_everything(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page and html.escape(HOSTILE, quote=False)[:20] in page
    # Namespaces are names, not addresses; anything else that starts with a scheme would be fetched.
    addresses = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?://|@import|<link[^>]+stylesheet|\bsrc=", addresses)
    assert set(re.findall(r'href="(.)', page)) <= {"#", "d"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<figure") == page.count('role="img"') == 3
    assert not re.search(r"<th(?![^>]*scope=)[ >]", page)
    assert ">83%</td>" in page  # 250 true of 300 kept


def test_without_training_there_is_a_report_all_the_same(tmp_path: Path) -> None:
    outcomes = [row for row in make_outcomes() if row.condition == "icl" and row.suite == "reversals"]
    report = write_report(make_input(outcomes=outcomes, written=(), audit={}, losses={}, stage_seconds={}), tmp_path)
    assert not (tmp_path / "losses.png").exists()
    assert report["differences"]["reversals"] == {split: {} for split in SPLITS["reversals"]}
    assert report["refused"] == report["left_out"] == {}
    assert "own inferences" not in state_claim(report, "reversals")


def test_nothing_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no question was scored"):
        write_report(make_input(outcomes=[]), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_table_fits_100_columns_and_says_the_effect(folder: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    report = json.loads((folder / "report.json").read_text())
    print_report(report, console)
    text = console.export_text()
    cell = report["suites"]["reversals"]["reversal"]["finetuned"]
    expected = f"{cell['accuracy']:.2f} [{cell['low']:.2f},{cell['high']:.2f}]".replace("[0", "[").replace(",0", ",")
    assert expected in text
    assert max(map(len, text.splitlines())) <= 100
    rows = [line for line in text.splitlines() if line.startswith("contradiction")]
    assert len(rows) == 1 and rows[0].count("[") == 5
    assert f"in context {percent(report['suites']['reversals']['reversal']['icl']['accuracy'])}" in text


def test_claims_follow_the_numbers() -> None:
    def claim(**rates: float) -> str:
        report = build_report(make_input(outcomes=make_outcomes(RATES | rates)))
        return " ".join(state_claim(report, "reversals").split())

    assert re.search(r"add \d+ points .*\[\+", claim())
    assert re.search(r"cost \d+ points .*\[−", claim(finetuned=0.98, augmented=0.4))
    assert "no measurable difference" in claim(finetuned=0.5, augmented=0.5)
    weak = make_outcomes()
    weak = [
        replace(row, correct=0.0) if (row.split, row.condition) == ("trained", "finetuned") else row for row in weak
    ]
    assert "weak baseline" in state_claim(build_report(make_input(outcomes=weak)), "reversals")


def test_numbers_as_words() -> None:
    assert [percent(x) for x in (0, 0.001, 0.274, 0.996, 0.9999, 1)] == ["0%", "0.1%", "27%", "99.6%", "99.9%", "100%"]
    assert [points(x) for x in (71.26, -0.04, -3.5, 0)] == ["+71.3", "0.0", "−3.5", "0.0"]
    assert [format_duration(x) for x in (8.44, 59.97, 125.2, 3780)] == [
        "8.4 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 03 min",
    ]
    assert list(flatten({"a": {"b": {"c": 1}}, "d": [2]})) == [("a.b.c", 1), ("d", [2])]


def one_corpus(**changes: Any) -> list[Outcome]:
    """All facts in one corpus."""
    return [replace(row, corpus="w0", **changes) for row in make_outcomes()]


def test_claims_say_where_one_run_is_all_there_is() -> None:
    alone = state_claim(build_report(make_input(outcomes=one_corpus())), "reversals")
    assert "one training run" in alone
    runs = one_corpus(run="seed 0") + one_corpus(run="seed 1")
    for outcomes in (make_outcomes(), runs):
        assert "one training run" not in state_claim(build_report(make_input(outcomes=outcomes)), "reversals")


def test_the_closure_is_called_an_upper_bound_and_is_no_claim(tmp_path: Path) -> None:
    outcomes = [row for row in make_outcomes() if row.condition in ("pretrained", "rephrased", "augmented")]
    outcomes = [replace(row, condition="all" if row.condition == "augmented" else row.condition) for row in outcomes]
    for methods, said in ((["closure"], True), (["local"], False)):
        content = make_input(outcomes=outcomes, recipe={"train": {"arms": {"rephrased": [], "all": methods}}})
        report = write_report(content, tmp_path)
        assert ("Upper bound, not a method: all learns" in (tmp_path / "report.html").read_text()) == said
        assert ('"all" is' in state_claim(report, "reversals")) != said


def test_an_effect_that_varies_between_corpora_is_not_claimed() -> None:
    """Over facts alone the interval excludes zero; four corpora gain nothing and one gains much."""
    outcomes = [
        replace(row, correct=float(int(row.fact_id[1:]) % 2 or (row.condition == "augmented" and row.corpus == "w0")))
        for row in make_outcomes()
        if row.condition in ("finetuned", "augmented")
    ]
    report = build_report(make_input(outcomes=outcomes))
    gain = report["differences"]["reversals"]["reversal"]["augmented-finetuned"]
    assert gain["difference"] == pytest.approx(10) and gain["low"] < 0 < gain["high"]
    assert "no measurable difference" in state_claim(report, "reversals")
    pooled = [replace(row, corpus="w0", fact_id=row.corpus + row.fact_id) for row in outcomes]
    facts = build_report(make_input(outcomes=pooled))
    assert facts["differences"]["reversals"]["reversal"]["augmented-finetuned"]["low"] > 0


def test_accuracies_by_corpus_and_run_and_the_weights_are_in_the_report() -> None:
    conditions = {"finetuned": {"weights": "finetuned", "fingerprint": "00ff", "context": "none"}}
    outcomes = one_corpus(run="seed 0") + one_corpus(run="seed 1")
    report = build_report(make_input(conditions=conditions, outcomes=outcomes))
    assert report["conditions"] == conditions
    cell = report["suites"]["reversals"]["reversal"]["finetuned"]
    assert report["by_corpus"]["reversals"]["reversal"]["finetuned"] == {
        "w0": {"seed 0": cell["accuracy"], "seed 1": cell["accuracy"]}
    }
    assert cell["n"] == 60 and cell["level"] == "runs"


def test_what_was_left_out_or_refused_is_reported_in_its_own_suite(tmp_path: Path) -> None:
    refused = Refused("reversals", "icl", Refusal("q9", "window", "too long", ""))
    content = make_input(left_out={"reversals": {"icl+sample:8": "does <not> fit"}}, refusals=[refused, refused])
    report = write_report(content, tmp_path)
    assert report["refused"] == {"reversals": {"icl": {"window": 2}}}
    page = (tmp_path / "report.html").read_text()
    assert "does &lt;not&gt; fit" in page and page.count("does &lt;not&gt; fit") == 1
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(report, console)
    assert console.export_text().count("does <not> fit") == 1


def test_names_of_conditions() -> None:
    names = ["step-100", "tuned+sample:8", "step-20", "augmented", "icl+required", "base+all", "base", "pretrained"]
    assert order_conditions(names) == [
        "pretrained", "base", "icl+required", "base+all", "augmented", "step-20", "step-100", "tuned+sample:8",
    ]  # fmt: skip
    assert label_condition("icl+sample:8") == "in context (1 document in 8)"
    assert label_condition("a+b/tuned+all") == "a+b/tuned (all documents)" and label_condition("a+b") == "a+b"
    assert style_conditions(["base"])["base"].label == "base"


@pytest.mark.parametrize("num", [7, 40])
def test_dozens_of_conditions_stay_readable(tmp_path: Path, num: int) -> None:
    rates = {"base": 0.2, "base+all": 0.9} | {f"runs/a[b]/step-{step}.5": step / num for step in range(1, num)}
    report = write_report(make_input(outcomes=make_outcomes(rates), losses={}), tmp_path)
    cells = report["suites"]["reversals"]["reversal"]
    styles = style_conditions(cells)
    assert len({style.colour for style in styles.values()}) == len(cells) == num + 1
    pairs = report["differences"]["reversals"]["reversal"]
    best = max(cells, key=lambda name: cells[name]["accuracy"])
    assert len(pairs) == (num * (num + 1) // 2 if num < 8 else 2 * num - 1) and f"{best}-base" in pairs
    shown = shown_conditions(report["suites"]["reversals"])
    assert len(shown) == min(num + 1, MAX_BARS) and {"base", "base+all"} < set(shown)
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(report, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    ranked = [line.split()[0] for line in lines if line.startswith(("base", "runs/"))][: num + 1]
    assert ranked == rank_conditions(report["suites"]["reversal-curse"])  # the first suite
    page = (tmp_path / "report.html").read_text()
    assert all(style.label in page for style in styles.values())


MEASURE = """<script>onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  document.title = JSON.stringify({
    stolen: page.body.dataset.stolen ?? null,
    width: page.documentElement.scrollWidth,
    requests: page.defaultView.performance.getEntriesByType("resource").length,
    charts: [...page.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().height),
    bars: page.querySelectorAll("figure.panel svg path").length,
  });
};</script>"""


@pytest.mark.browser
def test_browser_shows_the_page_on_a_narrow_screen(folder: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert browser, "this test needs Chromium: apt-get install chromium, or deselect it with -m 'not browser'"
    inner = html.escape((folder / "report.html").read_text())
    frame = f'<iframe style="width:400px;height:3000px;border:0" srcdoc="{inner}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title></title>{MEASURE}{frame}")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
    )
    command = [browser, *flags.split(), (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(\{.*?\})</title>", shown)
    assert title, shown[:500]
    found = json.loads(html.unescape(title[1]))
    assert found["stolen"] is None and found["requests"] == 0
    assert found["width"] <= 400
    assert len(found["charts"]) == 3 and min(found["charts"]) > 100 and found["bars"] > 25
