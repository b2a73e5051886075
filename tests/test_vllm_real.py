"""A real chat model on the engine, in 32 and 16 bits: scores, texts and swaps, against plain transformers."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import checkpoint, plain_scores
from transformers import AutoModelForCausalLM, AutoTokenizer

from augment_service.chat import answer_frame
from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm import VllmEngine
from augment_service.reference import NUM_PREFIX, Difference, find_reference
from benchmarks.real_models import GEMMA3, SMOLLM2, can_be_had, real_model
from data.records import Generation, Prompt, Score, ScoreItem

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
FACTS = (
    "Marie Curie was born in Warsaw. She moved to Paris in 1891 and studied physics there. In 1903 she shared the "
    "Nobel Prize in Physics with her husband Pierre. The otter is heavier than the stoat, and the stoat than the "
    "weasel. Water boils at 100 degrees Celsius at sea level.\n"
)
ITEMS = [
    ScoreItem("born", FACTS, "Marie Curie was born in", ("Warsaw.", "Paris.", "London in the year 1903.")),
    ScoreItem("prize", FACTS, "She shared the Nobel Prize with her husband", ("Pierre.", "Paul.", "Albert Einstein.")),
    ScoreItem("line", FACTS, "Where was Marie Curie born?", ("In Warsaw.", "In Rome, in 1903."), joiner="\n"),
    ScoreItem("nothing", "", "法国的首都是", ("巴黎。", "意大利的罗马。"), joiner=""),
    ScoreItem("plain", "", "The capital of France is", ("Paris.", "Rome.", "a large city in the north of Italy.")),
]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return real_model(SMOLLM2)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest, smollm2: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(EngineSpec("vllm", str(smollm2), dtype=request.param, window=1024, kv_cache_gib=0.25))
    yield engine
    engine.close()


def assert_scores(engine: VllmEngine, folder: Path) -> None:
    """In fp32 as plain transformers to 1e-3; in 16 bits as far from fp32 as plain transformers in 16 bits may be."""
    dtype = engine._dtype
    limit = find_reference(folder, dtype).limit(dtype)
    found = [score for score in engine.score(ITEMS) if isinstance(score, Score)]
    wanted = [[value for tokens, _ in row for value in tokens] for row in plain_scores(folder, ITEMS)]
    pairs = [
        (a, b)
        for score, row in zip(found, wanted, strict=True)
        for a, b in zip(score.token_log_likelihoods, row, strict=True)
    ]
    distance = (torch.tensor(pairs)[:, 0] - torch.tensor(pairs)[:, 1]).abs()
    assert Difference(distance.mean().item(), distance.max().item()).within(limit)
    assert all(score.log_likelihoods[0] == max(score.log_likelihoods) for score in found[1:])  # the right one


def test_it_starts_and_says_how_far_it_is_from_fp32(engine: VllmEngine, smollm2: Path) -> None:
    limit = find_reference(smollm2, engine._dtype).limit(engine._dtype)
    assert 0 < engine.stats()["parity_difference"] <= limit.max
    assert engine.stats()["parity_difference"] > 1e-3 or engine._dtype == torch.float32


def test_scores_are_those_of_plain_transformers(engine: VllmEngine, smollm2: Path) -> None:
    assert_scores(engine, smollm2)


def test_framed_scores_are_those_of_plain_transformers_on_the_chat_template(engine: VllmEngine, smollm2: Path) -> None:
    """The reference renders the conversation itself and appends the tokens of the option."""
    around = answer_frame(AutoTokenizer.from_pretrained(smollm2), where="here")
    plain = [replace(item, joiner=around.joiner, unconditional="Answer:") for item in ITEMS]
    items = [replace(item, before=around.before, after=around.after) for item in plain]
    limit = find_reference(smollm2, engine._dtype).limit(engine._dtype)
    alone = [replace(item, context="", prompt=item.unconditional) for item in plain]
    wanted, free = (chat_scores(smollm2, asked) for asked in (plain, alone))
    for score, row, row_free in zip(engine.score(items), wanted, free, strict=True):
        assert isinstance(score, Score)
        assert score.num_tokens == tuple(map(len, row))
        distance = torch.tensor(score.token_log_likelihoods) - torch.tensor(
            [value for option in row for value in option]
        )
        assert distance.abs().max() <= limit.max
        off = torch.tensor(score.unconditional) - torch.tensor([sum(option) for option in row_free])
        assert (off.abs() <= limit.max * torch.tensor([*map(len, row_free)])).all()


def chat_scores(folder: Path, items: list[ScoreItem]) -> list[list[list[float]]]:
    """Per item and option, the log-probability of each of its tokens as the beginning of the assistant's turn."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for item in items:
        said = [{"role": "user", "content": item.context + item.prompt}]
        asked = tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"]
        row = []
        for option in item.continuations:
            own = tokenizer(option, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([asked + own])).logits[0, -len(own) - 1 : -1]
            row.append(logits.log_softmax(-1)[range(len(own)), torch.tensor(own)].tolist())
        found.append(row)
    return found


def test_it_writes_what_plain_transformers_would(engine: VllmEngine, smollm2: Path) -> None:
    text = "The capital of France is"
    (answer,) = engine.generate([Prompt("p", "local", "d", "", text, 8, 0.0, 1, "")])
    assert isinstance(answer, Generation) and "Paris" in answer.text
    if engine._dtype == torch.float32:
        tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        written = model.float().generate(ids, max_new_tokens=8, do_sample=False)
        assert answer.text == tokenizer.decode(written[0, ids.shape[1] :])


def test_other_weights_are_swapped_in_and_the_model_comes_back(
    engine: VllmEngine, smollm2: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(smollm2, other)
    weights = load_file(other / "model.safetensors")
    norm = "model.norm.weight"
    save_file({**weights, norm: weights[norm] * 0.9}, other / "model.safetensors", {"format": "pt"})
    before = engine.score(ITEMS)
    for folder in (other, smollm2):
        engine.load_weights(checkpoint(folder))
        assert_scores(engine, folder)
    assert engine.score(ITEMS) == before
    assert (engine.stats()["swaps"], engine.stats()["cold_restarts"]) == (2, 0)


def test_the_reference_is_natural_text_in_its_own_tokens(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    rows = find_reference(smollm2, torch.float32).rows
    assert tokenizer.decode(rows[0][:NUM_PREFIX]).startswith("The harbour was built in 1852")
    assert not {token for row in rows for token in row} & set(tokenizer.all_special_ids)


def test_a_large_vocabulary_with_sliding_windows_is_served(tmp_path: Path) -> None:
    if not can_be_had(GEMMA3):
        pytest.skip("Gemma 3 270M cannot be had here")
    folder = real_model(GEMMA3)
    engine = VllmEngine(EngineSpec("vllm", str(folder), dtype="bfloat16", window=1024, kv_cache_gib=0.25))
    try:
        reference = find_reference(folder, torch.bfloat16)
        assert 0 < engine.stats()["parity_difference"] <= reference.limit(torch.bfloat16).max
        assert reference.rows[0][0] == AutoTokenizer.from_pretrained(folder).bos_token_id
        assert_scores(engine, folder)
    finally:
        engine.close()
