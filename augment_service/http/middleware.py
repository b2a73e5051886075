"""What every request passes before its body is read: the key, the size; and the counting of answers.

The key is compared in constant time and stands in no log and no answer.
"""

import hmac
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from augment_service.http.metrics import ServiceMetrics
from augment_service.http.requests import RequestError

OPEN_PATHS = {"/health"}
MAX_BYTES = 64 * 2**20  # of a request; an honest one holds some thousand texts at most


class AccessMiddleware:
    """ASGI middleware around the whole port. `known` are the paths that are counted by name."""

    def __init__(self, app: ASGIApp, *, key: str, metrics: ServiceMetrics, known: frozenset[str]) -> None:
        self._app, self._metrics, self._known = app, metrics, known
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on; count either way."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"] if scope["path"] in self._known else "other"

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, count_and_send)
        else:
            answer = JSONResponse(refusal.content(), refusal.status, refusal.headers())
            await answer(scope, receive, count_and_send)

    def _refusal(self, path: str, headers: Headers) -> RequestError | None:
        given = headers.get("authorization", "").encode("latin-1")
        if path not in OPEN_PATHS and not hmac.compare_digest(given, self._wanted):
            return RequestError(401, "no key, or a wrong one: send `Authorization: Bearer KEY`", code="invalid_api_key")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BYTES:
            return RequestError(413, f"the request has more than {MAX_BYTES} bytes", code="request_too_large")
        if "chunked" in headers.get("transfer-encoding", ""):
            return RequestError(411, "send the request with its Content-Length", code="length_required")
        return None
