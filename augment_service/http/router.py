"""The router of the HTTP port over a pool of actors: questions go to the least busy engine, and engines are watched.

A watched engine that lost its process makes its model again at once, and not when somebody asks. No files.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import ray

from cluster.pool import ActorPool
from data.errors import InputError, ResumableError

WATCH_SECONDS = 3.0


class PoolRouter:
    """Asks the `EngineWorker`s of a pool, from one event loop."""

    def __init__(self, pool: ActorPool) -> None:
        self._pool = pool
        self._width = len(pool.describe().actors)
        self._stats: list[dict[str, float]] = [{} for _ in range(self._width)]
        self._answers: dict[int, asyncio.Task[None]] = {}

    @property
    def width(self) -> int:
        """The number of engines."""
        return self._width

    async def ask(self, method: str, rows: list[Any]) -> list[Any]:
        """One call of a worker's method on these rows; if its engine dies, one more at another engine.

        Raises InputError and ResumableError, whatever a worker raises beside them, and Ray's errors.
        """
        try:
            return await _unwrapped(await self._send(method, rows))
        except ray.exceptions.RayActorError:
            pass
        try:
            return await _unwrapped(await self._send(method, rows))
        except ray.exceptions.RayActorError as error:
            raise ResumableError("two engines died, one after the other; they start again by themselves") from error

    async def describe(self) -> list[dict[str, Any]]:
        """The engines as they are now, with their `stats` as they were at the last watch."""
        actors = (await asyncio.to_thread(self._pool.describe)).actors
        return [
            {
                "name": str(number),
                "node": actor.node,
                "pid": actor.pid,
                "alive": actor.alive,
                "restarts": actor.num_restarts,
                "stats": stats,
            }
            for number, (actor, stats) in enumerate(zip(actors, self._stats, strict=True))
        ]

    async def watch(self) -> None:
        """Ask every engine for its counts, for ever; an engine that works on a batch answers when it is done."""
        while True:
            for number in range(self._width):
                if number not in self._answers:
                    self._answers[number] = asyncio.create_task(self._look_at(number))
            await asyncio.sleep(WATCH_SECONDS)

    async def _look_at(self, number: int) -> None:
        try:
            self._stats[number] = await _unwrapped(await asyncio.to_thread(self._pool.ask, "stats", (), actor=number))
        except (ray.exceptions.RayActorError, ResumableError):
            self._stats[number] = {}  # it is starting again: asked at the next watch
        finally:
            del self._answers[number]

    async def _send(self, method: str, rows: list[Any]) -> Awaitable[Any]:
        # finding the least busy engine asks the cluster, which would hold up the event loop
        return await asyncio.to_thread(self._pool.ask, method, (rows,))


async def _unwrapped(answer: Awaitable[Any]) -> Any:
    """The answer, or what the worker itself raised where that is ours."""
    try:
        return await answer
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError | ResumableError):
            raise error.cause from error
        raise
