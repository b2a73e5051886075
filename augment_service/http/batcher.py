"""Rows that arrive together become one batch per engine call, because engines need batches. No files."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from augment_service.http.requests import RETRY_SECONDS, EngineDeathError, RequestError
from data.errors import InputError, ResumableError

LOG = logging.getLogger(__name__)
BATCH_WAIT_SECONDS = 0.004  # that a row waits for others
MAX_ROWS = 256  # in one call: a late row should not wait for thousands
MAX_WAITING = 2048  # rows; requests beyond them are refused


class _Entry(NamedTuple):
    request: int
    row: Any
    answer: asyncio.Future[Any]


class Batcher:
    """Batches the rows of many callers. One call per engine runs at a time; rows that come meanwhile wait.

    `call` maps a list of rows to a list of answers of the same length. For one event loop.
    """

    def __init__(self, call: Callable[[list[Any]], Awaitable[list[Any]]], *, width: int) -> None:
        self._call, self._width = call, width
        self._num_requests = 0
        self._waiting: deque[_Entry] = deque()
        self._running: dict[asyncio.Task[None], list[_Entry]] = {}
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
        self._num_requests += 1
        entries = [_Entry(self._num_requests, row, loop.create_future()) for row in rows]
        self._waiting.extend(entries)
        if self._timer is None:
            self._timer = loop.call_later(BATCH_WAIT_SECONDS, self._dispatch)
        try:
            return await asyncio.gather(*(entry.answer for entry in entries))
        except BaseException:
            self._drop(entries)
            raise

    def _drop(self, entries: Sequence[_Entry]) -> None:
        """Nobody waits for these answers any more: do not begin them, and cancel calls for nobody else."""
        for entry in entries:
            entry.answer.cancel()
        self._waiting = deque(entry for entry in self._waiting if not entry.answer.done())
        for task, batch in self._running.items():
            if all(entry.answer.done() for entry in batch):
                task.cancel()

    def _dispatch(self) -> None:
        """Share the waiting rows among the engines that are free."""
        self._timer = None
        while self._waiting and (free := self._width - len(self._running)) > 0:
            size = min(math.ceil(len(self._waiting) / free), MAX_ROWS)
            batch = [self._waiting.popleft() for _ in range(size)]
            task = asyncio.create_task(self._answer(batch))
            self._running[task] = batch
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._dispatch()

    async def _answer(self, batch: list[_Entry]) -> None:
        """Give every row its answer, or the error of the call.

        Under whose row an engine died is unknown. So each request is tried once more by itself; one that is by itself
        has had its try.
        """
        try:
            answers = await self._call([entry.row for entry in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} rows got {len(answers)} answers")
        except EngineDeathError as error:
            requests = [list(group) for _, group in groupby(batch, lambda entry: entry.request)]
            if len(requests) == 1:
                _fail(batch, error)
                return
            for request in requests:
                if left := [entry for entry in request if not entry.answer.done()]:
                    await self._answer(left)
        except (InputError, ResumableError) as error:
            _fail(batch, error)
        except Exception as error:
            LOG.exception("a call of the engines failed", exc_info=error)
            _fail(batch, RequestError(500, "the engines failed, see the server's log", code="internal"))
        else:
            for entry, answer in zip(batch, answers, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(answer)


def _fail(batch: Sequence[_Entry], error: Exception) -> None:
    for entry in batch:
        if not entry.answer.done():
            entry.answer.set_exception(error)
