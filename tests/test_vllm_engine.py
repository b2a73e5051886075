"""The vLLM engine on a tiny random model, against plain transformers; and the tokenisation that engines share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from augment_service import vllm_engine
from augment_service.engine import EngineSpec, ParityError, score_tokens, start_engine, tokenise
from augment_service.vllm_engine import VllmEngine, gumbel_noise
from data.errors import InputError
from data.records import CheckpointRef, Prompt, ScoreItem

WORDS = [f"w{i}" for i in range(120)]
WINDOW = 256
GOLDEN_NOISE = [0.179120045381, -0.314491095701, -1.264283326401]  # key 1, by splitmix64 in plain Python
CONTEXT = " ".join(Random(1).choices(WORDS, k=200))


def make_model(folder: Path, seed: int, *, tied: bool) -> Path:
    """A random Llama of two layers with a word-level tokenizer; wide weights, so that its choices are not all alike."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<eos>", "\n", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(" +"), behavior="removed")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def reference_scores(folder: Path, items: Sequence[ScoreItem]) -> list[list[tuple[float, int, bool]]]:
    """Log-likelihood, number of tokens and greediness of each continuation, one plain forward pass at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = []
    for item in items:
        row = []
        for continuation in item.continuations:
            before = tokenizer(item.context + item.prompt)["input_ids"]
            ids = tokenizer(f"{item.context}{item.prompt} {continuation}")["input_ids"]
            count = len(ids) - len(before)
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -count - 1 : -1]
            wanted = torch.tensor(ids[-count:])
            chosen = logits.log_softmax(-1)[range(count), wanted]
            row.append((chosen.sum().item(), count, bool((logits.argmax(-1) == wanted).all())))
        scores.append(row)
    return scores


def checkpoint(folder: Path) -> CheckpointRef:
    return CheckpointRef(folder.name, str(folder), folder.name, "", 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {name: make_model(home / name, seed, tied=True) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> VllmEngine:
    engine = start_engine(EngineSpec(kind="vllm", model=str(folders["a"]), kv_cache_gib=0.1))
    assert isinstance(engine, VllmEngine)
    return engine


@pytest.fixture(scope="module")
def items() -> list[ScoreItem]:
    """Three questions after one long context and one without it; options of 1 to 4 tokens."""
    options = ("w1", "w2 w3", "w4 w5 w6", "w7 \n w8 w9")
    asked = [ScoreItem(f"i{i}", CONTEXT, f" w{i} w{i + 1}", options) for i in range(3)]
    return [*asked, ScoreItem("alone", "", "w5 w6", options)]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", "local", "d", CONTEXT, f" w{i} w{3 * i}", 16, 0.9, i, "\n") for i in range(24)]


def assert_scores(engine: VllmEngine, folder: Path, items: Sequence[ScoreItem]) -> None:
    for score, wanted in zip(engine.score(items), reference_scores(folder, items), strict=True):
        assert score.log_likelihoods == pytest.approx([value for value, _, _ in wanted], abs=1e-4)
        assert score.num_tokens == tuple(count for _, count, _ in wanted)
        assert score.greedy == tuple(greedy for _, _, greedy in wanted)


def test_scores_are_those_of_a_plain_forward_pass(
    engine: VllmEngine, folders: dict[str, Path], items: list[ScoreItem]
) -> None:
    before = engine.stats()
    assert_scores(engine, folders["a"], items)
    after = engine.stats()
    read, cached = (after[key] - before[key] for key in ("prompt_tokens", "cached_tokens"))
    assert cached == 11 * 192  # the context's full blocks are computed for the first of the twelve requests only
    assert read - cached < 2 * 200 + 12 * 40


def test_what_greedy_decoding_writes_is_scored_as_greedy(engine: VllmEngine, folders: dict[str, Path]) -> None:
    prompt = Prompt("p", "local", "d", CONTEXT, " w3", 5, 0.0, 1, "")
    written = engine.generate([prompt])[0]
    item = ScoreItem("i", CONTEXT, " w3", (written.text.strip(), "w1"))
    assert written.num_tokens == 5
    assert engine.score([item])[0].greedy == (True, False)
    assert_scores(engine, folders["a"], [item])
    assert engine.generate([replace(prompt, seed=2)])[0] == written


def test_a_row_depends_neither_on_its_batch_nor_on_the_call(engine: VllmEngine, prompts: list[Prompt]) -> None:
    together = engine.generate(prompts)
    assert engine.generate(prompts) == together
    assert [engine.generate([prompt])[0] for prompt in prompts] == together
    assert engine.generate(prompts[::-1]) == together[::-1]
    assert [row.prompt_id for row in together] == [prompt.prompt_id for prompt in prompts]


def test_the_seed_decides_the_text(engine: VllmEngine, prompts: list[Prompt]) -> None:
    rows = engine.generate([replace(prompts[0], seed=seed) for seed in range(20)])
    assert len({row.text for row in rows}) > 15


def test_text_ends_before_the_stop(engine: VllmEngine, prompts: list[Prompt]) -> None:
    rows = engine.generate([replace(prompt, seed=seed, max_tokens=40) for seed, prompt in enumerate(prompts)])
    assert not any("\n" in row.text for row in rows)
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert all(row.num_tokens == 40 for row in rows if row.finish_reason == "length")
    word = rows[0].text.split()[2]
    cut = engine.generate([replace(prompts[0], seed=0, max_tokens=40, stop=word)])[0]
    assert word not in cut.text.split()
    assert rows[0].text.startswith(cut.text.rstrip())


def test_weights_swap_in_place_and_back(engine: VllmEngine, folders: dict[str, Path], items: list[ScoreItem]) -> None:
    for name in "baba":
        engine.load_weights(checkpoint(folders[name]))
        assert_scores(engine, folders[name], items)
    assert 0 < engine.stats()["parity_difference"] < 1e-3


def test_wrong_weights_do_not_pass_the_probe(
    engine: VllmEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(vllm_engine, "_rebuild_tied_head", lambda model: None)
        with pytest.raises(ParityError) as raised:
            engine.load_weights(checkpoint(folders["b"]))
    assert raised.value.difference > 0.1
    engine._stats["parity_difference"] = 0.0
    engine.load_weights(checkpoint(folders["a"]))


def test_unknown_words_are_named(engine: VllmEngine, prompts: list[Prompt], items: list[ScoreItem]) -> None:
    with pytest.raises(InputError, match="does not know: Paris, London\n") as raised:
        engine.generate([replace(prompts[0], text=" Paris w1 London")])
    assert "--model" in raised.value.mend
    with pytest.raises(InputError, match="does not know: Berlin"):
        engine.score([replace(items[0], continuations=("w1", "Berlin"))])


def test_what_exceeds_the_window_is_refused(engine: VllmEngine, prompts: list[Prompt], items: list[ScoreItem]) -> None:
    with pytest.raises(InputError, match=r"302 tokens.*256") as raised:
        engine.generate([replace(prompts[0], max_tokens=100)])
    assert raised.value.where == "prompt p0"
    with pytest.raises(InputError, match=r"403 tokens.*256"):
        engine.score([replace(items[0], context=f"{CONTEXT} {CONTEXT}", continuations=("w1",))])
    exactly = replace(prompts[0], max_tokens=WINDOW - 202, stop="")
    assert engine.generate([exactly])[0].num_tokens <= WINDOW - 202


def test_missing_folders_and_empty_options_are_refused(
    engine: VllmEngine, items: list[ScoreItem], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no model here"):
        start_engine(EngineSpec(kind="vllm", model=str(tmp_path / "none")))
    with pytest.raises(InputError, match="no safetensors"):
        engine.load_weights(checkpoint(tmp_path))
    with pytest.raises(InputError, match="empty continuation"):
        engine.score([replace(items[0], continuations=("w1", ""))])
    with pytest.raises(InputError, match="no token stands before"):
        engine.score([replace(items[0], context="", prompt="")])


def test_the_noise_is_gumbel_and_the_same_everywhere() -> None:
    noise = gumbel_noise(torch.arange(20_000), 3)
    chosen = (torch.tensor([0.6, 0.3, 0.1]).log() + noise).argmax(-1).bincount() / 20_000
    assert chosen.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert torch.equal(gumbel_noise(torch.tensor([7]), 500)[0, :3], noise[7])
    assert noise[1].tolist() == pytest.approx(GOLDEN_NOISE, abs=1e-9)


def pieces(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer over a few letters that may merge over spaces; begins with <s> and ends with </s>."""
    symbols = ["<s>", "</s>", "a", "b", "x", " ", *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, merges))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_tokens_that_change_at_the_seam_belong_to_the_continuation() -> None:
    item = ScoreItem("i", "", "xa", ("b",))
    plain = score_tokens(pieces([]), [item], 99)[0][0]
    assert (plain.prefix, plain.continuation) == ((0, 4, 2), (5, 3))
    merged = score_tokens(pieces([("a", " ")]), [item], 99)[0][0]
    assert (merged.prefix, merged.continuation) == ((0, 4), (6, 3))


def test_a_text_begins_with_the_start_token_and_has_no_end_token() -> None:
    assert tokenise(pieces([]), ["ab", ""], where="here") == [[0, 2, 3], [0]]
