"""`benchmarks.gpu` on a CPU: a smoke run, what it does with checks that fail, and that each check can fail."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from augment_service.engines.protocol import EngineSpec
from augment_service.reference import Difference, Reference
from benchmarks import corpora, gpu, harness, roofline
from benchmarks.side import ROOT, Answer, SideError
from benchmarks.sides import checks
from benchmarks.sides.checks import Subject
from data.records import CheckpointRef, Echo, Generation, Score, ScoreItem
from train.plan.flops import multiplied_weights
from train.plan.shapes import read_shape

RATIOS = {f"{kind}_{what}" for kind in ("scoring", "generation") for what in ("tokens_per_second", "share_of_roofline")}
PEAK = {"name": "X", "flops": 1e12, "bytes_per_second": 1e10}


def test_a_smoke_run_checks_the_engine_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "has_gpu", lambda: False)
    out = tmp_path / "out.json"
    assert gpu.main(["--smoke", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["device"] == "cpu"
    assert report["ratios"].keys() == RATIOS
    assert all(value > 0 for value in report["ratios"].values())
    states = {(check["group"], check["name"]): check["state"] for check in report["checks"]}
    wanted = {(group, name) for group, names in gpu.GROUPS.items() for name in names}
    assert states.keys() == wanted | {(gpu.SPEED, "measured")}
    ran = {"bfloat16", "float32", gpu.SPEED}
    assert {state for (group, _), state in states.items() if group in ran} == {gpu.PASSED}
    assert {state for (group, _), state in states.items() if group not in ran} == {gpu.SKIPPED}
    assert all(check["reason"] for check in report["checks"] if check["state"] == gpu.SKIPPED)


# ---- checks that fail


class StubSide:
    """Stands for a process with engines: one check fails in it, and another engine kills it."""

    def __enter__(self) -> "StubSide":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, **arguments: Any) -> Answer:
        if method == "measure_peak":
            return Answer(1.0, PEAK)
        if method != "check" or arguments["settings"]["dtype"] == "float32":
            raise SideError("the process died")
        states = {name: gpu.FAILED if name == "parity" else gpu.PASSED for name in arguments["checks"]}
        rows = [checks.result(name, state, "off" * (state == gpu.FAILED)) for name, state in states.items()]
        return Answer(1.0, {"checks": rows})


def test_a_check_that_fails_and_a_process_that_dies_are_in_the_report_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "open_side", lambda *_: StubSide())
    out = tmp_path / "out.json"
    assert gpu.main(["--smoke", "--json", str(out)]) == harness.EXIT_DIFFERENT
    found = json.loads(out.read_text())
    failed = {(check["group"], check["name"]) for check in found["checks"] if check["state"] == gpu.FAILED}
    died = {("float32", name) for name in gpu.GROUPS["float32"]} | {(gpu.SPEED, "measured")}
    assert failed == {(group, "parity") for group in gpu.ENGINES} | died
    assert found["ratios"] == {}
    said = capsys.readouterr().err
    assert "bfloat16.parity failed: off" in said and "float32.swap failed: the process died" in said


class StubEngine:
    """An engine whose results are off by `wrong` in the named methods."""

    def __init__(self, faulty: str, wrong: float) -> None:
        self._faulty, self._wrong = faulty, wrong
        self._weights, self._num_loads, self._num_computed, self._unfinished = "own", 0, 0.0, False
        self.strategy = SimpleNamespace(name="forced", v2_runner=False)
        llm = SimpleNamespace(has_unfinished_requests=lambda: self._unfinished)
        self._host = SimpleNamespace(_llm=SimpleNamespace(llm_engine=llm))

    def _error(self, kind: str) -> float:
        return self._wrong if kind == self._faulty else 0.0

    def stats(self) -> dict[str, float]:
        restarts = self._num_loads * self._error("restarts")
        return {"parity_difference": 1e-5, "cold_restarts": restarts, "computed_tokens": self._num_computed}

    def echo(self, rows: tuple[tuple[int, ...], ...]) -> list[Echo]:
        return [Echo((-1.0, -2.0 + self._error("echo")), (0, 0, 0), (0.0, 0.0, 0.0)) for _ in rows]

    def score(self, items: list[ScoreItem]) -> list[Score]:
        self._num_computed += 1
        moved = 1.0 if self._weights != "own" and self._faulty != "load" else 0.0
        off = self._error(self.strategy.name) + self._error("back") * (self._num_loads == 3)
        return [Score(item.item_id, (-1.0,), (1,), (True,), (-1.0 + moved + off,)) for item in items]

    def load_weights(self, ref: CheckpointRef) -> None:
        self._weights, self._num_loads = ref.name, self._num_loads + 1

    def stream(self, prompt: Any) -> Any:
        try:
            self._unfinished = True
            yield "a "
            yield "c" if self._faulty == "parts" else "b"
            yield Generation(prompt.prompt_id, "a b", "stop", 2)
        finally:
            self._unfinished = self._faulty == "closing"

    def generate(self, prompts: list[Any]) -> list[Generation]:
        text = "a c" if self._faulty == "texts" else "a b"
        return [Generation(prompt.prompt_id, text, "stop", 2) for prompt in prompts]


def subject_of(faulty: str = "", wrong: float = 0.01) -> Subject:
    """A subject in float32 whose reference has two values."""
    spec = EngineSpec("vllm", str(ROOT / "models" / "tiny"), dtype="float32")
    reference = Reference(((1, 2, 3),), ((-1.0, -2.0),), {"bfloat16": Difference(0.1, 0.2)})
    engine: Any = StubEngine(faulty, wrong)
    return Subject(spec, [ScoreItem("i", "c", "p", ("o",))], CheckpointRef("other", "o", "f", "", 0), reference, engine)


@pytest.mark.parametrize(
    ("check", "faulty", "what"),
    [
        ("parity", "echo", "off fp32"),
        ("strategies", "stepwise", "stepwise is off"),
        ("swap", "load", "moved the scores by 0 nats"),
        ("swap", "back", "came back with"),
        ("swap", "restarts", "cold restart"),
        ("stream", "parts", "not the text"),
        ("stream", "texts", "only 0% of the texts"),
        ("cancellation", "closing", "still runs"),
        ("cancellation", "", "a cancelled call ended with None"),
    ],
)
def test_each_check_can_fail(check: str, faulty: str, what: str) -> None:
    if faulty:
        works = subject_of()
        assert check == "cancellation" or checks.attempt(check, checks.CHECKS[check], works)["state"] == "passed"
    found = checks.attempt(check, checks.CHECKS[check], subject_of(faulty))
    assert found["state"] == "failed"
    assert what in found["reason"]


@pytest.mark.parametrize("wrong", [0.01, math.nan])
def test_a_cold_start_with_other_scores_is_noticed(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    subject = subject_of()
    subject.swapped = [0.0]
    subject.engine.close = lambda: None  # type: ignore[method-assign]
    cold = StubEngine("forced", wrong)
    monkeypatch.setattr(checks, "VllmEngine", lambda spec: cold)
    found = checks.attempt("cold_start", checks.check_cold_start, subject)
    assert found["state"] == "failed"
    assert "differ by" in found["reason"]


def test_16_bits_have_the_limit_of_plain_transformers_in_16_bits() -> None:
    subject = subject_of()
    assert subject.swap_limit == checks.SWAP_LIMIT
    half = replace(subject, spec=replace(subject.spec, dtype="bfloat16"))
    assert half.swap_limit == half.limit == Difference(pytest.approx(0.3), pytest.approx(0.6))
    assert half.dtype == torch.bfloat16


def test_two_gpus_are_needed_for_tensor_parallelism(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EngineSpec("vllm", "m", tensor_parallel=2)
    for count, expected in ((0, "2 GPUs are needed, 0 are here"), (1, "2 GPUs are needed, 1 are here"), (2, "")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert checks.obstacle(spec) == expected
    assert checks.obstacle(replace(spec, tensor_parallel=1)) == ""


# ---- the roofline


def test_the_arithmetic_is_that_of_the_model_made(tmp_path: Path) -> None:
    folder = corpora.make_model(tmp_path, "bfloat16", **gpu.SMALL.model)
    shape = read_shape(folder)
    inner = multiplied_weights(shape) - shape.embedding
    # one token after n others: the matrices, and two products with n keys and values in each layer
    assert roofline.arithmetic(shape, 1, 10, 1) == 2 * (inner + shape.embedding) + 2 * 2 * 10 * 64 * 2
    assert roofline.arithmetic(shape, 3, 0, 0) == 6 * inner
    more = roofline.scoring_seconds(shape, PEAK, context=10, computed=11, scored=1)
    less = roofline.scoring_seconds(shape, PEAK, context=10, computed=10, scored=1)
    assert more - less == pytest.approx(roofline.arithmetic(shape, 1, 10, 0) / PEAK["flops"])


def test_writing_is_bound_by_the_slower_of_arithmetic_and_memory(tmp_path: Path) -> None:
    shape = read_shape(corpora.make_model(tmp_path, "bfloat16", **gpu.SMALL.model))

    def step(peak: dict[str, Any], rows: int) -> float:
        """The second of two tokens that each row writes, after one token of prompt."""
        two, one = (roofline.writing_seconds(shape, peak, rows=rows, prompt=1, written=n) for n in (2, 1))
        return two - one

    weights, kept = 2 * multiplied_weights(shape), 2 * 2 * 2 * 32  # bytes; of a token two layers of 32 keys and values
    assert step(PEAK | {"flops": 1e30}, 1) == pytest.approx((weights + 2 * kept) / PEAK["bytes_per_second"])
    assert step(PEAK | {"bytes_per_second": 1e30}, 3) == pytest.approx(roofline.arithmetic(shape, 3, 6, 3) / 1e12)


def test_the_work_fits_the_window_of_the_large_model() -> None:
    for sizes in (gpu.Sizes(), gpu.SMALL):
        window, words = sizes.model["max_position_embeddings"], sizes.model["words"]
        items = roofline.make_items(0, words, **sizes.score)
        longest = max(
            len(f"{item.context}{item.prompt} {option}".split()) for item in items for option in item.continuations
        )
        assert sizes.score["context_tokens"] < longest <= window
        assert sizes.write["prompt_tokens"] + sizes.write["max_tokens"] <= window
    assert roofline.make_items(1, 99, 10, 1)[0].context != roofline.make_items(2, 99, 10, 1)[0].context
    texts = {prompt.text for number in (1, 2) for prompt in roofline.make_prompts(number, 99, 5, 10, 4)}
    assert len(texts) == 10


def test_rates_are_tokens_over_seconds(tmp_path: Path) -> None:
    shape = read_shape(corpora.make_model(tmp_path, "bfloat16", **gpu.SMALL.model))
    rounds = [{"seconds": 2.0, "computed_tokens": 600.0, "scored_tokens": 40.0, "generated_tokens": 64.0}]
    found = gpu.rate_scoring(shape, PEAK, gpu.SMALL.score, rounds) | gpu.rate_generation(
        shape, PEAK, gpu.SMALL.write, rounds
    )
    assert found.keys() == RATIOS
    assert (found["scoring_tokens_per_second"], found["generation_tokens_per_second"]) == (300.0, 32.0)
    least = roofline.writing_seconds(shape, PEAK, rows=8, prompt=16, written=16)
    assert found["generation_share_of_roofline"] == pytest.approx(least / 2 / 2)  # half of the tokens in two seconds
