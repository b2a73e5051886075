"""The HTTP service's router over a pool of actors: requests go to the least busy engine, and engines are watched.

A watched engine that lost its process loads its model again at once, before anybody asks. No files.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import ray

from cluster.actors import ActorState
from cluster.pool import ActorPool
from data.errors import InputError, ResumableError

WATCH_SECONDS = 3.0


class PoolRouter:
    """Calls the `EngineWorker`s of a pool, from one event loop."""

    def __init__(self, pool: ActorPool) -> None:
        self._pool = pool
        self._actors: list[ActorState] = pool.states()
        self._stats: dict[int, tuple[int, dict[str, float]]] = {}  # engine -> restarts when it answered, its counts
        self._pending: dict[int, asyncio.Task[None]] = {}

    @property
    def width(self) -> int:
        """The number of engines."""
        return len(self._actors)

    async def ask(self, method: str, rows: list[Any]) -> list[Any]:
        """One call of a worker's method on these rows; if its engine dies, one more at another engine.

        Raises InputError and ResumableError, other errors that a worker raises, and Ray's errors.
        """
        for _ in range(2):
            try:
                return await _unwrapped(await self._send(method, rows))
            except ray.exceptions.RayActorError as error:
                death = error
        raise ResumableError("two engines died, one after the other; they restart by themselves") from death

    def describe(self) -> list[dict[str, Any]]:
        """The engines as they were at the last watch. One is `ready` if it has answered since its last restart."""
        return [
            {
                "name": str(number),
                "node": actor.node,
                "pid": actor.pid,
                "alive": actor.alive,
                "ready": (is_ready := self._is_ready(number)),
                "restarts": actor.num_restarts,
                "stats": self._stats[number][1] if is_ready else {},
            }
            for number, actor in enumerate(self._actors)
        ]

    async def watch(self) -> None:
        """Ask every engine for its counts, periodically; an engine that is busy answers after its batch."""
        while True:
            self._actors = await asyncio.to_thread(self._pool.states)
            for number in range(self.width):
                if number not in self._pending:
                    self._pending[number] = asyncio.create_task(self._check(number))
            await asyncio.sleep(WATCH_SECONDS)

    async def _check(self, number: int) -> None:
        restarts = self._actors[number].num_restarts
        try:
            stats = await _unwrapped(await asyncio.to_thread(self._pool.ask, "stats", (), actors=(number,)))
            self._stats[number] = (restarts, stats)
        except (ray.exceptions.RayActorError, ResumableError):
            self._stats.pop(number, None)  # it is restarting: asked again at the next watch
        finally:
            del self._pending[number]

    async def _send(self, method: str, rows: list[Any]) -> Awaitable[Any]:
        ready = [number for number in range(self.width) if self._is_ready(number)]
        # choosing the engine may ask the cluster, which would block the event loop
        try:
            return await asyncio.to_thread(self._pool.ask, method, (rows,), actors=ready)
        except ResumableError:  # none is ready: wait for one that is loading
            return await asyncio.to_thread(self._pool.ask, method, (rows,))

    def _is_ready(self, number: int) -> bool:
        actor = self._actors[number]
        return actor.alive and self._stats.get(number, (-1, {}))[0] == actor.num_restarts


async def _unwrapped(answer: Awaitable[Any]) -> Any:
    """The answer, or the error of the worker itself if it is one of ours."""
    try:
        return await answer
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError | ResumableError):
            raise error.cause from error
        raise
