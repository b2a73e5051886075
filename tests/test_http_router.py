"""The router of the HTTP service over a pool that is none: which engine gets a call, what a death costs."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
import ray

from augment_service.http import router as router_module
from augment_service.http.requests import EngineDeathError
from augment_service.http.router import PoolRouter
from cluster.actors import ActorState
from data.errors import ResumableError

DEATH = ray.exceptions.RayActorError()


class Pool:
    """Engines that answer at once; `deaths` are those of the next calls, each of which began or did not."""

    def __init__(self, num_engines: int = 3) -> None:
        self.num_looks = 0
        self.asked: list[tuple[str, list[int]]] = []
        self.deaths: list[bool] = []
        self.loading: set[int] = set()
        self.alive = [True] * num_engines
        self.trouble: list[Exception] = []
        self.hold: asyncio.Event | None = None
        self._began: dict[int, bool] = {}

    def states(self) -> list[ActorState]:
        self.num_looks += 1
        if self.trouble:
            raise self.trouble.pop()
        return [ActorState("node", 1, alive, False, 0) for alive in self.alive]

    def ask(self, method: str, args: tuple[Any, ...], *, actors: list[int]) -> Any:
        if not actors:
            raise ResumableError("no actor of the pool is up")
        if method == "stats":
            return _never() if actors[0] in self.loading else _answer({"swaps": 0.0})
        self.asked.append((method, actors))
        if self.deaths:
            call = _fail(DEATH)
            self._began[id(call)] = self.deaths.pop(0)
            return call
        return _answer([row + 1 for row in args[0]], self.hold)

    async def ask_stream(self, method: str, args: tuple[Any, ...], *, actors: list[int]) -> Any:
        for item in (*args, 1, 2):
            yield _answer(item)

    def died_under(self, call: Any) -> bool:
        return self._began[id(call)]


async def _answer(value: Any, hold: asyncio.Event | None = None) -> Any:
    if hold is not None:
        await hold.wait()
    return value


async def _fail(error: Exception) -> Any:
    raise error


async def _never() -> Any:
    await asyncio.Event().wait()


async def watched(pool: Pool) -> PoolRouter:
    """A router whose engines have been asked once."""
    router = PoolRouter(pool)  # type: ignore[arg-type]
    watch = asyncio.create_task(router.watch())
    while len(router._stats) < len(pool.alive) - len(pool.loading):
        await asyncio.sleep(0.01)
    watch.cancel()
    return router


def test_questions_and_health_ask_the_cluster_nothing() -> None:
    async def run() -> None:
        pool = Pool()
        router = await watched(pool)
        before = pool.num_looks
        for _ in range(5):
            assert await router.ask("answer", [1, 2]) == [2, 3]
            assert all(engine["ready"] for engine in router.describe())
        assert pool.num_looks == before

    asyncio.run(run())


def test_calls_go_to_engines_that_are_ready() -> None:
    async def run() -> None:
        pool = Pool()
        pool.loading = {0}
        router = await watched(pool)
        await router.ask("answer", [1])
        assert pool.asked == [("answer", [1, 2])]
        assert [engine["ready"] for engine in router.describe()] == [False, True, True]

    asyncio.run(run())


def test_without_a_ready_engine_one_that_loads_is_asked_and_without_any_none() -> None:
    async def run() -> None:
        pool = Pool(2)
        pool.loading, pool.alive = {0}, [True, False]
        router = PoolRouter(pool)  # type: ignore[arg-type]
        await router.ask("answer", [1])
        assert pool.asked == [("answer", [0])]
        pool.alive = [False, False]
        with pytest.raises(ResumableError):
            await PoolRouter(pool).ask("answer", [1])  # type: ignore[arg-type]

    asyncio.run(run())


def test_a_call_that_its_engine_had_not_begun_goes_to_another() -> None:
    async def run() -> None:
        pool = Pool()
        router = await watched(pool)
        pool.deaths = [False, False]
        assert await router.ask("answer", [1]) == [2]
        pool.deaths = [False] * 9
        with pytest.raises(ResumableError):
            await router.ask("answer", [1])

    asyncio.run(run())


def test_a_call_under_which_its_engine_died_is_tried_once_more_by_itself() -> None:
    async def run() -> None:
        pool = Pool()
        router = await watched(pool)
        pool.deaths = [False, True]
        assert await router.ask("answer", [1]) == [2]  # another call was to blame
        assert [actors for _, actors in pool.asked] == [[0, 1, 2], [0, 1, 2], [2]]
        pool.deaths = [True, True]
        with pytest.raises(EngineDeathError):
            await router.ask("answer", [1])
        assert len(pool.asked) == 5

    asyncio.run(run())


def test_calls_on_trial_come_one_after_the_other_and_have_an_engine_to_themselves() -> None:
    async def run() -> None:
        pool = Pool()
        router = await watched(pool)
        pool.deaths = [True, True]
        held = pool.hold = asyncio.Event()
        calls = [asyncio.create_task(router.ask("answer", [at])) for at in range(2)]
        while len(pool.asked) < 3:
            await asyncio.sleep(0.01)
        other = asyncio.create_task(router.ask("answer", [5]))
        await asyncio.sleep(0.1)
        assert [actors for _, actors in pool.asked[2:]] == [[2], [0, 1]]
        held.set()
        assert await asyncio.gather(*calls, other) == [[1], [2], [6]]

    asyncio.run(run())


def test_a_stream_passes_on_what_comes_and_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        router = await watched(Pool())
        ended: list[Any] = []
        monkeypatch.setattr(ray, "cancel", ended.append)
        assert [item async for item in router.stream("stream", "row")] == ["row", 1, 2]
        async with aclosing(router.stream("stream", "row")) as items:
            assert await anext(items) == "row"
        assert len(ended) == 2

    asyncio.run(run())


def test_the_watch_survives_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "WATCH_SECONDS", 0.01)

    async def run() -> None:
        pool = Pool()
        router = PoolRouter(pool)  # type: ignore[arg-type]
        pool.trouble = [ConnectionError("no cluster"), RuntimeError("no cluster")]
        watch = asyncio.create_task(router.watch())
        while len(router._stats) < 3:
            await asyncio.sleep(0.01)
            assert not watch.done()
        watch.cancel()

    asyncio.run(run())
