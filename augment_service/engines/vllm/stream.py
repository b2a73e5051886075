"""Requests to vLLM as one stream: callers in any number of threads, and one thread that touches the engine.

The engine has as many requests as it wants, whoever sent them; each caller gets its outputs as they finish, and a
caller that stops early takes its requests with it. No files.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from vllm import RequestOutput, SamplingParams

from augment_service.tokens import TokenRow
from cluster.cancellation import check_cancelled

# Token ids of all requests in flight, which vLLM copies: some 200 MiB. Beyond, requests wait at their caller.
MAX_TOKENS = 2**23
MIN_HEAD = 1024  # tokens; shorter shared beginnings are hashed with each request
MAX_HEADS = 16
ROWS_AHEAD = 2  # requests of one caller that vLLM has, in multiples of those that it runs concurrently
POLL_SECONDS = 0.5  # between two looks whether a caller that waits was cancelled
Tag = TypeVar("Tag")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Request(Generic[Tag]):
    """Token ids to read, how to continue them, and the caller's own tag."""

    prompt: TokenRow
    params: SamplingParams
    tag: Tag


@dataclass
class _Lane(Generic[Tag]):
    """One caller: its requests in flight by id, and its outputs, a list for each step, or the engine's error."""

    requests: dict[str, Request[Tag]] = field(default_factory=dict)
    outputs: SimpleQueue[list[RequestOutput] | Exception] = field(default_factory=SimpleQueue)


class HeadHashes:
    """Hashes the blocks of a shared beginning once; vLLM alone does so for each request, which may take 0.1 s.

    Takes the place of `EngineCore.request_block_hasher`. `head` is that of the request which is being added, `adapter`
    goes into its hashes.
    """

    def __init__(self, hasher: Callable[[Any], list[Any]]) -> None:
        self._hasher = hasher
        self._known: dict[tuple[int, Any], tuple[Sequence[int], list[Any]]] = {}  # with the head, so that its id stays
        self.head: Sequence[int] = ()
        self.adapter: Any = None

    def __call__(self, request: Any) -> list[Any]:
        """The hashes of the full blocks of a request that has none yet, or of those that are full now."""
        if request.block_hashes or len(self.head) < MIN_HEAD:
            return self._hasher(request)
        key = id(self.head), self.adapter
        if key in self._known:
            request.block_hashes.extend(self._known[key][1])  # the hasher continues after these
            return self._hasher(request)
        hashes = self._hasher(request)
        if len(self._known) == MAX_HEADS:
            del self._known[next(iter(self._known))]
        self._known[key] = self.head, hashes[: len(self.head) * len(hashes) // request.num_tokens]
        return hashes


class EngineThread:
    """The thread in which everything of vLLM happens. `step` is `LLMEngine.step`.

    Calls of `do` run between two steps; the thread steps as long as there are requests.
    """

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._lanes: dict[str, _Lane[Any]] = {}  # by request; the thread's own
        self._engine: Any = None
        self._hashes: Any = None
        self.seconds = 0.0  # of steps
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    def do(self, act: Callable[[], Result]) -> Result:
        """The result of a function that runs in the thread. Raises what it raises."""
        future: Future[Result] = Future()
        self._inbox.put((act, future))
        return future.result()

    def set_engine(self, engine: Any) -> None:
        """The `LLMEngine` to step; from within `do`."""
        self._engine = engine
        if engine is not None:
            core = engine.engine_core.engine_core
            core.request_block_hasher = self._hashes = HeadHashes(core.request_block_hasher)

    def add(self, lane: _Lane[Any], requests: dict[str, Request[Any]], adapter: Any) -> None:
        """Hand requests to vLLM; from within `do`."""
        started = time.perf_counter()
        self._hashes.adapter = None if adapter is None else adapter.lora_int_id
        for name, request in requests.items():
            self._hashes.head = request.prompt.head
            prompt = {"type": "token", "prompt_token_ids": request.prompt.ids}
            self._engine.add_request(name, prompt, request.params, lora_request=adapter)
            self._lanes[name] = lane
        self.seconds += time.perf_counter() - started

    def abort(self, names: Iterable[str]) -> None:
        """Drop requests, finished or not; from within `do`."""
        names = [name for name in names if self._lanes.pop(name, None)]
        if names and self._engine is not None:
            self._engine.abort_request(names)

    def end(self) -> None:
        """End the thread when all that it was asked is done."""
        self._inbox.put(None)

    def _work(self) -> None:
        while True:
            try:
                asked = self._inbox.get(block=not self._lanes)
            except Empty:
                self._step()
                continue
            if asked is None:
                return
            act, future = asked
            try:
                future.set_result(act())
            except BaseException as error:  # noqa: BLE001  the caller raises it
                future.set_exception(error)

    def _step(self) -> None:
        started = time.perf_counter()
        by_lane: dict[int, tuple[_Lane[Any], list[RequestOutput]]] = {}
        try:
            outputs = self._engine.step()
        except Exception as error:  # noqa: BLE001  the callers raise it
            for failed in {id(lane): lane for lane in self._lanes.values()}.values():
                failed.outputs.put(error)
            self._lanes.clear()
            return
        for output in outputs:
            lane = self._lanes.get(output.request_id)
            if lane is None:
                continue
            if output.finished:
                del self._lanes[output.request_id]
            by_lane.setdefault(id(lane), (lane, []))[1].append(output)
        self.seconds += time.perf_counter() - started
        for reader, found in by_lane.values():
            reader.outputs.put(found)


class RequestStream:
    """Runs the requests of any number of threads on one engine, which works on `num_rows` of them at a time."""

    def __init__(self, thread: EngineThread, num_rows: int) -> None:
        self._thread, self._max_rows = thread, ROWS_AHEAD * num_rows
        self._names = itertools.count()
        self._lock = threading.Lock()
        self._num_tokens = 0

    def run(
        self, requests: Iterable[Request[Tag]], more: deque[Request[Tag]] | None = None, adapter: Any = None
    ) -> Iterator[tuple[Request[Tag], RequestOutput]]:
        """Each request with its outputs, as they come; only requests that ask for parts of them have several.

        Requests are consumed as the engine takes them. Who reads the outputs may append `more` requests meanwhile.
        Raises CancelledCallError if the call of this thread was cancelled, and what vLLM raises.
        """
        more, source, lane = deque() if more is None else more, iter(requests), _Lane[Tag]()
        try:
            while True:
                if taken := self._taken(lane, more, source):
                    lane.requests |= taken
                    self._thread.do(partial(self._thread.add, lane, taken, adapter))
                if not lane.requests:
                    return
                for output in _next(lane):
                    request = lane.requests[output.request_id]
                    if output.finished:
                        del lane.requests[output.request_id]
                        self._count(-len(request.prompt))
                    yield request, output
        finally:
            if lane.requests:
                self._thread.do(partial(self._thread.abort, list(lane.requests)))
                self._count(-sum(len(request.prompt) for request in lane.requests.values()))

    def _taken(
        self, lane: _Lane[Tag], more: deque[Request[Tag]], source: Iterator[Request[Tag]]
    ) -> dict[str, Request[Tag]]:
        """The next requests of a caller, as many as vLLM should have; none while it has most of them."""
        taken: dict[str, Request[Tag]] = {}
        if len(lane.requests) > 3 * self._max_rows // 4:
            return taken
        while (held := len(lane.requests) + len(taken)) < self._max_rows:
            if held and self._num_tokens > MAX_TOKENS:
                break
            request = more.popleft() if more else next(source, None)
            if request is None:
                break
            taken[str(next(self._names))] = request
            self._count(len(request.prompt))
        return taken

    def _count(self, num_tokens: int) -> None:
        with self._lock:
            self._num_tokens += num_tokens


def _next(lane: _Lane[Any]) -> list[RequestOutput]:
    """What comes next for a caller. Raises CancelledCallError, and what vLLM raised."""
    while True:
        check_cancelled()
        try:
            found = lane.outputs.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if isinstance(found, Exception):
            raise found
        return found
