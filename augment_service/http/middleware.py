"""Checks of every request before its body is read: the key and the size; and counts of the answers, for Prometheus.

The key is compared in constant time; no log and no answer contains it.
"""

import hmac
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from augment_service.http.requests import RequestError

OPEN_PATHS = {"/health"}
PREFIX = "entail"  # of metrics
MAX_BYTES = 64 * 2**20  # of a request; some thousand texts


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
    """ASGI middleware around the whole service. `known` are the paths that are counted by name."""

    def __init__(self, app: ASGIApp, *, key: str, metrics: ServiceMetrics, known: frozenset[str]) -> None:
        self._app, self._metrics, self._known = app, metrics, known
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or forward; count either way."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"] if scope["path"] in self._known else "other"
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BYTES:  # whatever the headers promised
                raise _too_large()
            return message

        async def send_unless_too_large(message: Message) -> None:
            if num_bytes <= MAX_BYTES:  # else the application answers that it cannot read the body
                await send_counted(message)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            with suppress(RequestError):
                await self._app(scope, receive_counted, send_unless_too_large)
            if num_bytes <= MAX_BYTES:
                return
            refusal = _too_large()
        await refusal.response()(scope, receive, send_counted)

    def _refusal(self, path: str, headers: Headers) -> RequestError | None:
        given = headers.get("authorization", "").encode("latin-1")
        if path not in OPEN_PATHS and not hmac.compare_digest(given, self._wanted):
            return RequestError(401, "no valid key: send `Authorization: Bearer KEY`", code="invalid_api_key")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BYTES:
            return _too_large()
        if "transfer-encoding" in headers:
            return RequestError(411, "send the request with its Content-Length", code="length_required")
        return None


def _too_large() -> RequestError:
    return RequestError(413, f"the request has more than {MAX_BYTES} bytes", code="request_too_large")
