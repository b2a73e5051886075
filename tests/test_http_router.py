"""The router of the HTTP service over a pool that is none: which engine gets a call, what a death costs."""

import asyncio
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
        return _answer([row + 1 for row in args[0]])

    def died_under(self, call: Any) -> bool:
        return self._began[id(call)]


async def _answer(value: Any) -> Any:
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


def test_a_call_under_which_its_engine_died_is_not_sent_again() -> None:
    async def run() -> None:
        pool = Pool()
        router = await watched(pool)
        pool.deaths = [False, True]
        with pytest.raises(EngineDeathError):
            await router.ask("answer", [1])
        assert len(pool.asked) == 2

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
