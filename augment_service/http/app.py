"""The HTTP service's routes: OpenAI's completions, chat and models; health, status and metrics. No files."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from augment_service.http import requests
from augment_service.http.middleware import AccessMiddleware, ServiceMetrics
from augment_service.http.requests import RETRY_SECONDS, RequestError
from augment_service.http.router import PoolRouter
from augment_service.http.service import Service
from data.errors import InputError, ResumableError

LOG = logging.getLogger(__name__)
PATHS = ("/health", "/metrics", "/status", "/v1/models", "/v1/completions", "/v1/chat/completions")


def build_app(service: Service, router: PoolRouter, *, key: str, deadline_seconds: float) -> ASGIApp:
    """The application; all paths but `/health` need the key. No answer takes longer than `deadline_seconds`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    metrics = ServiceMetrics()

    async def refuse(_: Request, error: Exception) -> Response:
        return _refusal(error).response()

    for kind in (RequestError, RequestValidationError, InputError, ResumableError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return service.models()

    @app.post("/v1/completions")
    async def completions(body: requests.Completion) -> Response:
        return await _streamed(service, body) if body.stream else JSONResponse(await service.complete(body))

    @app.post("/v1/chat/completions")
    async def chat(body: requests.Chat) -> Response:
        return await _streamed(service, body) if body.stream else JSONResponse(await service.chat(body))

    @app.get("/health")
    async def health() -> JSONResponse:
        ready = any(engine["ready"] for engine in router.describe())
        return JSONResponse({"status": "ok" if ready else "no engine is ready"}, 200 if ready else 503)

    @app.get("/status")
    async def status() -> dict[str, Any]:
        return {"model": service.model, "waiting_rows": service.num_waiting, "engines": router.describe()}

    @app.get("/metrics")
    async def metrics_text() -> Response:
        metrics.waiting.set(service.num_waiting)
        return Response(metrics.text(router.describe()), media_type="text/plain; version=0.0.4; charset=utf-8")

    # around all else, so that it counts 500s too
    return AccessMiddleware(app, key=key, metrics=metrics, known=frozenset(PATHS), deadline_seconds=deadline_seconds)


async def _streamed(service: Service, body: requests.Completion | requests.Chat) -> Response:
    """Events as the text is written; what is wrong before the first one has a status of its own."""
    chunks = service.stream(body)
    first = await anext(chunks)
    with_usage = body.stream_options is not None and body.stream_options.include_usage

    async def events() -> AsyncIterator[str]:
        async with aclosing(chunks):
            try:
                yield _event(first)
                async for chunk in chunks:
                    if chunk["choices"] or with_usage:
                        yield _event(chunk)
                yield "data: [DONE]\n\n"
            except Exception as error:
                LOG.exception("a stream ended early", exc_info=error)
                yield _event({"error": _refusal(error).content()})

    return StreamingResponse(events(), media_type="text/event-stream")


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _refusal(error: Exception) -> RequestError:
    """Any error in OpenAI's form, with a status of the client or the server."""
    match error:
        case RequestError():
            return error
        case RequestValidationError():
            first = error.errors()[0]
            words = [str(word) for word in first["loc"] if word != "body"]
            what = f"{'.'.join(words) or 'body'}: {first['msg']}"
            return RequestError(400, what, code="invalid", param=words[0] if words else None)
        case InputError():
            return RequestError(400, f"{error.what}; {error.hint}", code="invalid", param=error.where)
        case ResumableError():
            return RequestError(503, str(error), code="unavailable", wait=RETRY_SECONDS)
        case HTTPException():
            return RequestError(error.status_code, error.detail, code="invalid")
    return RequestError(500, "the server failed, see its log", code="internal")
