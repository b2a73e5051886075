"""Rows that arrive together become one batch per engine call, because engines need batches. No files."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from augment_service.http.requests import RETRY_SECONDS, RequestError
from data.errors import InputError, ResumableError

LOG = logging.getLogger(__name__)
BATCH_WAIT_SECONDS = 0.004  # that a row waits for others
MAX_ROWS = 256  # in one call: a late row should not wait for thousands
MAX_WAITING = 2048  # rows; requests beyond them are refused


class Batcher:
    """Batches the rows of many callers. One call per engine runs at a time; rows that come meanwhile wait.

    `call` maps a list of rows to a list of answers of the same length. For one event loop.
    """

    def __init__(self, call: Callable[[list[Any]], Awaitable[list[Any]]], *, width: int) -> None:
        self._call, self._width = call, width
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._running: set[asyncio.Task[list[Any]]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """Rows that no engine has yet."""
        return len(self._waiting)

    async def submit(self, rows: Sequence[Any]) -> list[Any]:
        """The answers to these rows, in their order. Raises RequestError, InputError, ResumableError."""
        if len(self._waiting) + len(rows) > MAX_WAITING:
            what = f"{len(self._waiting)} rows are waiting already"
            raise RequestError(503, what, code="overloaded", wait=RETRY_SECONDS)
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Any]] = [loop.create_future() for _ in rows]
        self._waiting.extend(zip(rows, answers, strict=True))
        if self._timer is None:
            self._timer = loop.call_later(BATCH_WAIT_SECONDS, self._dispatch)
        return await asyncio.gather(*answers)

    def _dispatch(self) -> None:
        """Share the waiting rows among the engines that are free."""
        self._timer = None
        while self._waiting and (free := self._width - len(self._running)) > 0:
            size = min(math.ceil(len(self._waiting) / free), MAX_ROWS)
            batch = [self._waiting.popleft() for _ in range(size)]
            self._running.add(task := asyncio.create_task(self._call_with([row for row, _ in batch])))
            task.add_done_callback(partial(self._deliver, [answer for _, answer in batch]))

    async def _call_with(self, rows: list[Any]) -> list[Any]:
        answers = await self._call(rows)
        if len(answers) != len(rows):
            raise RuntimeError(f"{len(rows)} rows got {len(answers)} answers")
        return answers

    def _deliver(self, waiting: list[asyncio.Future[Any]], task: asyncio.Task[list[Any]]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, InputError | ResumableError):
            LOG.error("a call of the engines failed", exc_info=error)
            error = RequestError(500, "the engines failed, see the server's log", code="internal")
        for at, answer in enumerate(waiting):
            if answer.done():
                continue
            if task.cancelled():
                answer.cancel()
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result()[at])
        self._dispatch()
