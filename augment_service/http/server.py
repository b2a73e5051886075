"""The HTTP server: uvicorn with limits for connections that send too much, too slowly, or nothing at all. No files."""

import asyncio

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for the head of a request to arrive
MAX_HEAD_BYTES = 64 * 2**10
KEEP_ALIVE_SECONDS = 5  # between two requests
GRACE_SECONDS = 5  # for requests in progress at the end
MAX_CONNECTIONS = 512  # a process has often no more than 1,024 descriptors, and Ray needs some


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How the service's application is served. h11, because it bounds the head of a request."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class BoundedProtocol(H11Protocol):
    """A connection. It is closed beyond the limit of connections, and when no head of a request arrives in time.

    uvicorn itself limits requests only: a connection without any stays open.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As the base class."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.close()
        self._look_after()

    def _look_after(self, before: tuple[object, bool] | None = None) -> None:
        """Close the connection if no request has been in progress since the last look."""
        now = self.cycle, self.cycle is None or self.cycle.response_complete
        if now == before and now[1]:
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(HEAD_SECONDS, self._look_after, now)
