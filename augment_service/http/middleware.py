"""What holds for every request: its key, its size, its time; and counts of the answers, for Prometheus.

The key is compared in constant time before the body is read; no log and no answer contains it.
"""

import asyncio
import hmac
import time
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from augment_service.http.requests import RequestError

OPEN_PATHS = {"/health"}
PREFIX = "entail"  # of metrics
MAX_BYTES = 16 * 2**20  # of a request; a thousand texts. While one is parsed, all others wait
BODY_SECONDS = 60.0  # for the whole body to arrive


class ServiceMetrics:
    """Requests since the start of the service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter(f"{PREFIX}_http_requests", "Requests answered.", labels, registry=self._registry)
        self.seconds = Histogram(f"{PREFIX}_http_seconds", "Time to an answer.", ("path",), registry=self._registry)
        self.waiting = Gauge(f"{PREFIX}_http_waiting_rows", "Rows that no engine has yet.", registry=self._registry)

    def text(self, engines: Sequence[Mapping[str, object]]) -> bytes:
        """All metrics, with those of every engine (`stats`, `alive`, `restarts`) under its name.

        An engine's numbers are gauges: a restarted engine begins at zero, which a counter may not.
        """
        registry = CollectorRegistry()
        gauges: dict[str, Gauge] = {}
        for engine in engines:
            stats = engine.get("stats")
            for name, value in {**engine, **(stats if isinstance(stats, Mapping) else {})}.items():
                if isinstance(value, int | float):
                    if name not in gauges:
                        full = f"{PREFIX}_engine_{name}"
                        gauges[name] = Gauge(full, f"Engine: {name}.", ("engine",), registry=registry)
                    gauges[name].labels(str(engine.get("name", ""))).set(value)
        return generate_latest(self._registry) + generate_latest(registry)


class AccessMiddleware:
    """ASGI middleware around the whole service. `known` are the paths that are counted by name.

    A request that is not answered within `deadline_seconds` is refused. It is cancelled then, and when its client
    hangs up.
    """

    def __init__(
        self, app: ASGIApp, *, key: str, metrics: ServiceMetrics, known: frozenset[str], deadline_seconds: float
    ) -> None:
        self._app, self._metrics, self._known = app, metrics, known
        self._deadline = deadline_seconds
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or forward; count either way."""
        if scope["type"] != "http":
            return
        started, path = time.perf_counter(), scope["path"] if scope["path"] in self._known else "other"
        has_begun = False

        async def send_counted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            await send(message)

        try:
            most = 0 if scope["path"] in OPEN_PATHS else MAX_BYTES
            self._check(scope["path"], Headers(scope=scope), most)
            body = await _read_body(receive, most)
            if body is not None:
                await self._forward(scope, body, receive, send_counted)
        except RequestError as error:
            if not has_begun:  # else the server closes the connection, because the answer is not complete
                await error.response()(scope, receive, send_counted)

    async def _forward(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer, as long as there is time and somebody waits. Raises RequestError."""
        gone = asyncio.create_task(_hang_up(receive))
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_again() -> Message:
            return next(messages, {}) or await asyncio.shield(gone)

        work = asyncio.create_task(_run(self._app, scope, receive_again, send))
        try:
            done, _ = await asyncio.wait({work, gone}, timeout=self._deadline, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                what = f"no answer within {self._deadline:g} s"
                raise RequestError(504, what, code="deadline", is_final=True)
            if work in done:
                work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    def _check(self, path: str, headers: Headers, most: int) -> None:
        given = headers.get("authorization", "").encode("latin-1")
        if path not in OPEN_PATHS and not hmac.compare_digest(given, self._wanted):
            raise RequestError(401, "no valid key: send `Authorization: Bearer KEY`", code="invalid_api_key")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        if "transfer-encoding" in headers:
            raise RequestError(411, "send the request with its Content-Length", code="length_required")


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _read_body(receive: Receive, most: int) -> bytes | None:
    """The whole body of at most that many bytes; None if the client hangs up.

    Raises RequestError for one that is too large or too slow.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:  # whatever the headers promised
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        what = f"the request did not arrive within {BODY_SECONDS:g} s"
        raise RequestError(408, what, code="request_timeout") from error


async def _hang_up(receive: Receive) -> Message:
    """The message that the client has closed the connection."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the request has more than {most} bytes", code="request_too_large")
