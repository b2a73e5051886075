"""`benchmarks.gpu` on a CPU: a smoke run, what it does with checks that fail, and that each check can fail."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated_varlen import emulated_varlen

from augment_service.engines.protocol import EngineSpec
from augment_service.reference import Difference, Reference
from benchmarks import attempts, corpora, gpu, harness, roofline
from benchmarks.side import ROOT, Answer, SideError
from benchmarks.sides import checks, train_checks
from benchmarks.sides.checks import Subject
from benchmarks.worlds import make_items
from data.records import CheckpointRef, Echo, Generation, Score, ScoreItem
from data.rendering import load_book
from train.model import packed_attention
from train.model.objective import Targets
from train.plan.flops import multiplied_weights
from train.plan.shapes import read_shape
from train.run.finetune_run import FinetuneRun

TINY = ROOT / "models" / "tiny"
ENGINE_RATIOS = {
    f"{kind}_{what}" for kind in ("scoring", "generation") for what in ("tokens_per_second", "share_of_roofline")
}
TRAINING_RATIOS = {"training_tokens_per_second", "training_mfu", "planned_over_measured_memory"}
PEAK = {"name": "X", "flops": 1e12, "bytes_per_second": 1e10}


@pytest.mark.timeout(600)
def test_a_smoke_run_checks_engines_and_finetuning_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "has_gpu", lambda: False)
    out = tmp_path / "out.json"
    assert gpu.main(["--smoke", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["device"] == "cpu"
    assert report["ratios"].keys() == ENGINE_RATIOS | TRAINING_RATIOS
    assert all(value > 0 for value in report["ratios"].values())
    found = {(check["group"], check["name"]): check for check in report["checks"]}
    assert found.keys() == {(group, name) for group, names in gpu.GROUPS.items() for name in names}
    skipped = {title for title, check in found.items() if check["state"] == attempts.SKIPPED}
    needs_gpus = {(group, "ranks") for group in gpu.TRAININGS} | {("training_bfloat16", "attention")}
    unavailable = {(group, name) for group in ("replay", "tensor_parallel", gpu.ACTOR) for name in gpu.GROUPS[group]}
    assert skipped == needs_gpus | unavailable
    assert {check["state"] for title, check in found.items() if title not in skipped} == {attempts.PASSED}
    assert all(found[title]["reason"] for title in skipped)
    assert all(found[group, "start"]["figures"]["learned"] > 1 for group in gpu.TRAININGS)


# ---- checks that fail


class StubSide:
    """Stands for a process with engines or finetunings: one check fails in it, and float32 kills it."""

    def __enter__(self) -> "StubSide":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, **arguments: Any) -> Answer:
        if method == "measure_peak":
            return Answer(1.0, PEAK)
        if method != "check" or "float32" in arguments["settings"].values():
            raise SideError("the process died")
        states = {name: attempts.FAILED if name in FAULTY else attempts.PASSED for name in arguments["checks"]}
        rows = [attempts.result(name, state, "off" * (state == attempts.FAILED)) for name, state in states.items()]
        return Answer(1.0, {"checks": rows})


FAULTY = ("parity", "packed")


def test_a_check_that_fails_and_a_process_that_dies_are_in_the_report_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "open_side", lambda *_: StubSide())
    out = tmp_path / "out.json"
    assert gpu.main(["--smoke", "--json", str(out)]) == harness.EXIT_DIFFERENT
    found = json.loads(out.read_text())
    failed = {(check["group"], check["name"]) for check in found["checks"] if check["state"] == attempts.FAILED}
    died = {(group, name) for group in ("float32", "training_float32", gpu.SPEED) for name in gpu.GROUPS[group]}
    assert failed == {(group, "parity") for group in gpu.ENGINES} | {("training_bfloat16", "packed")} | died
    assert found["ratios"] == {}
    said = capsys.readouterr().err
    assert "bfloat16.parity failed: off" in said and "float32.swap failed: the process died" in said


def test_a_speed_that_cannot_be_measured_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(scene: gpu.Scene) -> dict[str, Any]:
        raise SideError("the process died")

    monkeypatch.setattr(gpu, "open_side", lambda *_: StubSide())
    monkeypatch.setattr(gpu, "SPEEDS", {gpu.ENGINE: died, gpu.TRAINING: lambda scene: {"ratios": {"mfu": 0.5}}})
    out = tmp_path / "out.json"
    gpu.main(["--smoke", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["ratios"] == {"mfu": 0.5}
    states = {check["name"]: check["state"] for check in found["checks"] if check["group"] == gpu.SPEED}
    assert states == {gpu.ENGINE: attempts.FAILED, gpu.TRAINING: attempts.PASSED}


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
    spec = EngineSpec("vllm", str(TINY), dtype="float32")
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
        assert check == "cancellation" or attempts.attempt(check, checks.CHECKS[check], works)["state"] == "passed"
    found = attempts.attempt(check, checks.CHECKS[check], subject_of(faulty))
    assert found["state"] == "failed"
    assert what in found["reason"]


@pytest.mark.parametrize("wrong", [0.01, math.nan])
def test_a_cold_start_with_other_scores_is_noticed(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    subject = subject_of()
    subject.swapped = [0.0]
    subject.engine.close = lambda: None  # type: ignore[method-assign]
    cold = StubEngine("forced", wrong)
    monkeypatch.setattr(checks, "VllmEngine", lambda spec: cold)
    found = attempts.attempt("cold_start", checks.check_cold_start, subject)
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


# ---- checks of finetuning that fail


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> train_checks.Subject:
    """Finetuning in bfloat16, with the losses of a plain loop."""
    items = make_items("gpu", load_book(TINY), context_words=150, num_questions=1)
    texts = train_checks.make_texts(items[0].context)
    return train_checks.start_subject("bfloat16", texts, str(TINY), tmp_path_factory.mktemp("learned"))


@pytest.fixture
def trained(learned: train_checks.Subject, tmp_path: Path) -> train_checks.Subject:
    """The same with runs of its own: stubs leave checkpoints that are none."""
    return replace(learned, run=replace(learned.run, out=str(tmp_path / "runs" / "run")))


def attempt_training(name: str, subject: train_checks.Subject) -> dict[str, Any]:
    return attempts.attempt(name, train_checks.CHECKS[name], subject)


def stub_finetune(losses: dict[str, list[float]], starts: list[int]) -> Any:
    """Stands for the training of a run: `losses` by its name, the first steps of its starts."""

    def finetune(run: FinetuneRun, report: Any) -> CheckpointRef:
        out = Path(run.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses[run.name]))
        (out / "checkpoint.json").write_text(json.dumps({"starts": [{"step": step} for step in starts]}))
        return CheckpointRef(run.name, str(out), "", "", len(losses))

    return finetune


@pytest.mark.parametrize(
    ("name", "faulty"),
    [("stage_1", "stage-1"), ("packed", "padded"), ("recomputed", "recomputed"), ("resume", "stopped")],
)
def test_losses_that_differ_are_noticed(
    name: str, faulty: str, trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = train_checks.LIMITS["bfloat16"]
    for more, state in ((0.9 * limit, "passed"), (1.1 * limit, "failed"), (math.nan, "failed")):
        losses = dict.fromkeys(("stage-1", "padded", "recomputed", "stopped"), trained.plain)
        losses[faulty] = [*trained.plain[:-1], trained.plain[-1] + more]
        monkeypatch.setattr(train_checks, "finetune", stub_finetune(losses, [0, 2]))
        found = attempt_training(name, trained)
        assert found["state"] == state and ("instead of" in found["reason"]) is (state == "failed")


def test_a_run_that_starts_anew_does_not_count_as_resumed(
    trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = dict.fromkeys(("stage-1", "stopped"), trained.plain)
    monkeypatch.setattr(train_checks, "finetune", stub_finetune(losses, [0]))
    found = attempt_training("resume", trained)
    assert found["state"] == "failed" and "steps [0]" in found["reason"]


def test_a_loss_in_chunks_that_loses_a_label_is_noticed(
    trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Targets.split
    monkeypatch.setattr(
        Targets, "split", lambda self, size: [part._replace(labels=part.labels.roll(1)) for part in split(self, size)]
    )
    assert attempt_training("chunked", trained)["state"] == "failed"


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda optimizer: optimizer.optimizer.defaults.update(fused=False), "not fused"),
        (lambda optimizer: setattr(optimizer, "overlap_comm", True), "overlap_comm is True"),
    ],
    ids=["fused", "overlap"],
)
def test_settings_that_are_not_in_force_are_noticed(
    fault: Any, what: str, trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = train_checks.start_engine

    def start_otherwise(run: FinetuneRun, model: Any) -> Any:
        engine = start(run, model)
        fault(engine.optimizer)
        return engine

    monkeypatch.setattr(train_checks, "start_engine", start_otherwise)
    found = attempt_training("settings", trained)
    assert found["state"] == "failed" and what in found["reason"]


def test_memory_that_does_not_run_out_is_noticed(
    trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_checks, "needs_too_much", lambda run, word, folder: run)
    monkeypatch.setattr(train_checks, "finetune", lambda run, report: None)
    found = attempt_training("out_of_memory", trained)
    assert found["state"] == "failed" and "was trained" in found["reason"]


def without_window(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"window_size": (-1, 0)}


def one_too_wide(options: dict[str, Any]) -> dict[str, Any]:
    left, right = options["window_size"]
    return options | {"window_size": (left + (left > 0), right)}


def not_causal(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"window_size": (options["window_size"][0], -1)}


@pytest.mark.parametrize("fault", [None, without_window, one_too_wide, not_causal])
def test_variable_length_attention_that_computes_otherwise_is_noticed(
    fault: Any, trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def varlen(*tensors: Any, **options: Any) -> torch.Tensor:
        return emulated_varlen(*tensors, **(fault(options) if fault else options))

    # Off where FlashAttention is, as the check turns it off for the calls that it compares with.
    monkeypatch.setattr(
        packed_attention,
        "can_use_flash_attention",
        lambda parameters: torch.backends.cuda.flash_sdp_enabled() and parameters.query.dtype == torch.bfloat16,
    )
    monkeypatch.setattr(packed_attention, "varlen_attn", varlen)
    found = attempts.attempt("attention", train_checks.compare_attentions, trained)
    assert found["state"] == ("failed" if fault else "passed"), found["reason"]
    assert not fault or "is off fp32 by" in found["reason"]
    assert fault or found["figures"]["gradient_over_padded"] > 0


def test_two_ranks_have_the_losses_of_one(trained: train_checks.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert attempt_training("ranks", trained)["state"] == "skipped"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = attempt_training("ranks", trained)
    assert found["state"] == "passed", found["reason"]
    assert 0 < found["figures"]["max"] <= train_checks.LIMITS["bfloat16"]


def test_a_plain_loop_that_learns_nothing_is_no_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_checks, "plain_losses", lambda run, texts, dtype: [3.0, 2.9])
    with pytest.raises(AssertionError, match="that is no test"):
        train_checks.start_subject("float32", ["are"], str(TINY), tmp_path)


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
        assert sizes.train["row_tokens"] <= window
    assert roofline.make_items(1, 99, 10, 1)[0].context != roofline.make_items(2, 99, 10, 1)[0].context
    texts = {prompt.text for number in (1, 2) for prompt in roofline.make_prompts(number, 99, 5, 10, 4)}
    assert len(texts) == 10


def test_rates_are_tokens_over_seconds(tmp_path: Path) -> None:
    shape = read_shape(corpora.make_model(tmp_path, "bfloat16", **gpu.SMALL.model))
    rounds = [{"seconds": 2.0, "computed_tokens": 600.0, "scored_tokens": 40.0, "generated_tokens": 64.0}]
    found = gpu.rate_scoring(shape, PEAK, gpu.SMALL.score, rounds) | gpu.rate_generation(
        shape, PEAK, gpu.SMALL.write, rounds
    )
    assert found.keys() == ENGINE_RATIOS
    assert (found["scoring_tokens_per_second"], found["generation_tokens_per_second"]) == (300.0, 32.0)
    least = roofline.writing_seconds(shape, PEAK, rows=8, prompt=16, written=16)
    assert found["generation_share_of_roofline"] == pytest.approx(least / 2 / 2)  # half of the tokens in two seconds


def test_the_mfu_is_the_arithmetic_of_training_over_the_peak(tmp_path: Path) -> None:
    shape = read_shape(corpora.make_model(tmp_path, "bfloat16", **gpu.SMALL.model))
    found = {"tokens_per_second": [100, 900, 200], "planned_bytes": 300, "measured_bytes": 200}
    ratios = gpu.rate_training(shape, PEAK, 128, found)
    assert ratios.keys() == TRAINING_RATIOS
    assert ratios["training_tokens_per_second"] == 200 and ratios["planned_over_measured_memory"] == 1.5
    # forward and twice that backward, two operations a weight; two products with half of the row in two layers
    each = 3 * 2 * (multiplied_weights(shape) + 2 * 2 * 64 * 128 / 2)
    assert ratios["training_mfu"] == pytest.approx(200 * each / 1e12)
