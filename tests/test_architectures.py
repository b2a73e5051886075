"""The vLLM engine on random models of other architectures: scores, swaps and texts are those of plain transformers."""

from pathlib import Path
from random import Random

import pytest
import torch
from tiny_models import CONTEXT, WINDOW, WORDS, checkpoint, make_model, plain_scores
from transformers import AutoModelForCausalLM, AutoTokenizer

from augment_service.engines.protocol import EngineSpec
from augment_service.engines.vllm import VllmEngine
from data.records import Generation, Prompt, Score, ScoreItem

OPTIONS = ("w1", "w2 w3", "w2 w4", "w4 w5 \n w7", " ".join(WORDS[:40]))
ITEMS = [ScoreItem(f"i{i}", CONTEXT, f" w{i} w{i + 1}", OPTIONS) for i in range(3)]
ITEMS += [ScoreItem("alone", "", "w5 w6", OPTIONS)]
PROMPT = Prompt("p", "", "", CONTEXT, " w3", 8, 0.0, 1, "")


def assert_scores(engine: VllmEngine, folder: Path) -> None:
    for score, wanted in zip(engine.score(ITEMS), plain_scores(folder, ITEMS), strict=True):
        assert isinstance(score, Score)
        assert score.token_log_likelihoods == pytest.approx([v for tokens, _ in wanted for v in tokens], abs=1e-4)
        assert score.greedy == tuple(greedy for _, greedy in wanted)


def greedy_text(folder: Path) -> str:
    """What plain greedy decoding writes after the prompt, as words."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT.context + PROMPT.text)["input_ids"]
    for _ in range(PROMPT.max_tokens):
        with torch.inference_mode():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return tokenizer.decode(ids[-PROMPT.max_tokens :], skip_special_tokens=True)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "gpt2"])
def test_another_architecture_is_scored_swapped_and_heard_like_plain_transformers(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    first, second = (make_model(tmp_path / name, seed, kind=kind, tied=tied) for seed, name in enumerate("ab"))
    engine = VllmEngine(EngineSpec(kind="vllm", model=str(first), kv_cache_gib=0.05))
    try:
        assert engine.strategy.name == "forced"
        assert_scores(engine, first)
        assert_scores(engine, first)  # now all of it from the prefix cache
        written = engine.generate([PROMPT])[0]
        assert isinstance(written, Generation)
        assert written.text.split() == greedy_text(first).split()
        for folder in (second, first):
            engine.load_weights(checkpoint(folder))
            assert_scores(engine, folder)
        assert engine.stats()["cold_restarts"] == 0
    finally:
        engine.close()


def test_a_cache_that_holds_few_texts_at_once_changes_no_score(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "a", 0, tied=True)
    contexts = [" ".join(Random(seed).choices(WORDS, k=200)) for seed in range(12)]
    items = [ScoreItem(f"c{at}", context, f" w{at}", OPTIONS[:4]) for at, context in enumerate(contexts)]
    engine = VllmEngine(EngineSpec(kind="vllm", model=str(folder), kv_cache_gib=0.0005))
    try:
        assert engine._host._llm.llm_engine.vllm_config.cache_config.num_gpu_blocks <= 2 * WINDOW / 32
        rows = engine.score(items)
        for score, wanted in zip(rows, plain_scores(folder, items), strict=True):
            assert isinstance(score, Score)
            assert score.token_log_likelihoods == pytest.approx([v for tokens, _ in wanted for v in tokens], abs=1e-4)
    finally:
        engine.close()
