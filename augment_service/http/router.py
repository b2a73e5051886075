"""The HTTP service's router over a pool of actors: requests go to the least busy engine, and engines are watched.

A watched engine that lost its process loads its model again at once, before anybody asks. No files.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import ray

from augment_service.http.requests import EngineDeathError
from cluster.actors import ActorState
from cluster.pool import ActorPool
from data.errors import InputError, ResumableError

LOG = logging.getLogger(__name__)
WATCH_SECONDS = 3.0
MAX_TRIES = 3  # of a call whose engine dies before it works on it


class PoolRouter:
    """Calls the `EngineWorker`s of a pool, from one event loop."""

    def __init__(self, pool: ActorPool) -> None:
        self._pool = pool
        self._actors: list[ActorState] = pool.states()
        self._stats: dict[int, tuple[int, dict[str, float]]] = {}  # engine -> restarts when it answered, its counts
        self._pending: dict[int, asyncio.Task[None]] = {}
        self._trial = asyncio.Lock()  # of a call under which an engine died
        self._on_trial: int | None = None  # the engine that has it

    @property
    def width(self) -> int:
        """The number of engines."""
        return len(self._actors)

    async def ask(self, method: str, rows: list[Any]) -> list[Any]:
        """One call of a worker's method on these rows, at a ready engine if there is one; cancelling it ends the call.

        An engine that dies works on many calls, and one of them may be to blame. Each is tried once more, one after
        the other, at an engine that gets nothing else meanwhile if there are others. Raises EngineDeathError if that
        dies, too; InputError and ResumableError, other errors that a worker raises, and Ray's errors.
        """
        try:
            return await self._ask(method, rows, self._ready_engines)
        except EngineDeathError:
            async with self._trial:
                engines = self._ready_engines()
                self._on_trial = engines[-1] if len(engines) > 1 else None
                try:
                    return await self._ask(method, rows, lambda: engines[-1:])
                finally:
                    self._on_trial = None

    async def stream(self, method: str, *args: Any) -> AsyncIterator[Any]:
        """What a worker's method yields, as it comes; closing this ends the call. Raises as `ask`, without a retry."""
        items = await asyncio.to_thread(self._pool.ask_stream, method, args, actors=self._ready_engines())
        try:
            async for ref in items:
                yield await _unwrapped(ref)
        except ray.exceptions.RayActorError as error:
            raise EngineDeathError from error
        finally:
            ray.cancel(items)

    async def _ask(self, method: str, rows: list[Any], engines: Callable[[], list[int]]) -> list[Any]:
        """A call that its engine has not begun when it dies goes to another. Raises EngineDeathError if it has."""
        for _ in range(MAX_TRIES):
            # large rows take a while to be packed
            ref = await asyncio.to_thread(self._pool.ask, method, (rows,), actors=engines())
            try:
                return await _unwrapped(ref)
            except asyncio.CancelledError:
                ray.cancel(ref)
                raise
            except ray.exceptions.RayActorError as error:
                death = error
                if await asyncio.to_thread(self._pool.died_under, ref):
                    LOG.error("an engine died while it worked on a call %s of %d rows", method, len(rows))
                    raise EngineDeathError from error
                self._actors = await asyncio.to_thread(self._pool.states)
        raise ResumableError(f"{MAX_TRIES} engines died one after the other; they restart by themselves") from death

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
        """Ask every engine for its counts, periodically."""
        while True:
            try:
                self._actors = await asyncio.to_thread(self._pool.states)
            except Exception:  # the cluster does not answer: the next watch may find it again
                LOG.exception("the engines cannot be watched")
            for number in range(self.width):
                if number not in self._pending:
                    self._pending[number] = asyncio.create_task(self._check(number))
            await asyncio.sleep(WATCH_SECONDS)

    async def _check(self, number: int) -> None:
        restarts = self._actors[number].num_restarts
        try:
            stats = await _unwrapped(await asyncio.to_thread(self._pool.ask, "stats", (), actors=(number,)))
            self._stats[number] = (restarts, stats)
        except (ray.exceptions.RayError, InputError, ResumableError):
            self._stats.pop(number, None)  # it is restarting, or fails: asked again at the next watch
        finally:
            del self._pending[number]

    def _ready_engines(self) -> list[int]:
        """Those that were ready at the last watch, so the cluster is not asked; without any, those that load."""
        ready = [number for number in range(self.width) if self._is_ready(number) and number != self._on_trial]
        return ready or [number for number, actor in enumerate(self._actors) if actor.alive]

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
