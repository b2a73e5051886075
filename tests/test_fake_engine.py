"""The fake engine keeps the promises of the protocol: the refusals are those of a real engine."""

from dataclasses import replace

from augment_service.engines.protocol import EngineSpec, TokenEngine
from augment_service.engines.start import start_engine
from data.records import CheckpointRef, Echo, Generation, Prompt, Refusal, Score, ScoreItem

SPEC = EngineSpec(kind="fake", model="none", window=64)
PROMPTS = [Prompt(f"p{i}", "local", "d0", "the doma is a teacher .", f" say {i}", 12, 0.7, i, "") for i in range(20)]
ITEMS = [ScoreItem(f"i{i}", "the doma is a teacher .", f" who {i}", ("the doma", "the ruli is it")) for i in range(5)]
OTHER = CheckpointRef("other", "/checkpoints/other", "f00d", "none", 10)


def texts(rows: list[Generation | Refusal]) -> list[str]:
    assert all(isinstance(row, Generation) for row in rows)
    return [row.text for row in rows if isinstance(row, Generation)]


def test_a_row_depends_on_its_prompt_alone() -> None:
    together = start_engine(SPEC).generate(PROMPTS)
    assert together == [start_engine(SPEC).generate([prompt])[0] for prompt in PROMPTS]
    assert len(set(texts(together))) > 10
    assert {row.finish_reason for row in together if isinstance(row, Generation)} == {"stop", "length"}
    reseeded = start_engine(SPEC).generate([replace(prompt, seed=99) for prompt in PROMPTS])
    assert texts(reseeded) != texts(together)
    greedy = [replace(PROMPTS[0], temperature=0.0, seed=seed) for seed in (1, 2)]
    assert len(set(texts(start_engine(SPEC).generate(greedy)))) == 1


def test_text_ends_before_the_stop() -> None:
    rows = start_engine(SPEC).generate([replace(prompt, stop="doma") for prompt in PROMPTS])
    assert not any("doma" in text for text in texts(rows))


def test_scores_belong_to_the_weights() -> None:
    engine = start_engine(SPEC)
    base = engine.score(ITEMS)
    assert [score.num_tokens for score in base if isinstance(score, Score)] == [(2, 4)] * 5
    engine.load_weights(OTHER)
    assert engine.score(ITEMS) != base
    assert engine.stats()["swaps"] == 1


def test_a_score_is_the_sum_of_its_tokens() -> None:
    engine = start_engine(SPEC)
    with_it = [replace(item, unconditional="so") for item in ITEMS]
    for plain, row in zip(engine.score(ITEMS), engine.score(with_it), strict=True):
        assert isinstance(plain, Score)
        assert isinstance(row, Score)
        assert replace(row, unconditional=()) == plain
        assert len(row.unconditional) == 2
        first, second = row.token_log_likelihoods[:2], row.token_log_likelihoods[2:]
        assert [round(sum(first), 9), round(sum(second), 9)] == [round(value, 9) for value in row.log_likelihoods]
        assert all(value < 0 for value in (*row.token_log_likelihoods, *row.unconditional))


def test_what_a_real_engine_refuses_is_refused_and_the_rest_answered() -> None:
    engine = start_engine(SPEC)
    long, empty, good = engine.generate(
        [replace(PROMPTS[0], context="word " * 60), replace(PROMPTS[0], context="", text=""), PROMPTS[0]]
    )
    assert isinstance(long, Refusal)
    assert isinstance(empty, Refusal)
    assert (long.item_id, long.kind, empty.kind) == ("p0", "window", "empty")
    assert "74 tokens are needed, the model's window has 64" in long.what
    assert good == engine.generate(PROMPTS[:1])[0]
    none, start, good_score = engine.score(
        [replace(ITEMS[0], continuations=("yes", " ")), replace(ITEMS[0], context="", prompt=""), ITEMS[0]]
    )
    assert isinstance(none, Refusal)
    assert isinstance(start, Refusal)
    assert (none.item_id, none.kind, start.kind) == ("i0", "empty", "empty")
    assert isinstance(good_score, Score)


def test_tokens_are_counted() -> None:
    engine = start_engine(SPEC)
    engine.score([*ITEMS, replace(ITEMS[0], continuations=())])
    counted = engine.stats()
    assert (counted["prompt_tokens"], counted["cached_tokens"], counted["scored_tokens"]) == (5 * 8, 4 * 6, 5 * 6)
    assert counted["computed_tokens"] == 5 * 8 - 4 * 6 + 5 * 6


def test_an_echo_has_a_value_for_every_token_but_the_first() -> None:
    engine = start_engine(SPEC)
    assert isinstance(engine, TokenEngine)
    echo, long = engine.echo([[1, 2, 3], [0] * 64])
    assert isinstance(echo, Echo)
    assert (len(echo.log_likelihoods), len(echo.best_tokens), len(echo.best_log_likelihoods)) == (2, 3, 3)
    assert isinstance(long, Refusal)
    assert (long.item_id, long.kind) == ("1", "window")


def test_a_shared_context_is_split_once() -> None:
    class Counted(str):
        splits = 0

        def split(self, *words: object, **options: object) -> list[str]:  # type: ignore[override]
            Counted.splits += 1
            return super().split(*words, **options)  # type: ignore[arg-type]

    context = Counted("the doma is a teacher . " * 2000)
    engine = start_engine(replace(SPEC, window=None))
    rows = engine.generate([replace(prompt, context=context) for prompt in PROMPTS])
    assert all(isinstance(row, Generation) for row in rows)
    assert Counted.splits == 1
