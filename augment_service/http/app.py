"""The HTTP service's routes: OpenAI's completions, chat and models; health, status and metrics. No files."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from augment_service.http import requests
from augment_service.http.metrics import ServiceMetrics
from augment_service.http.middleware import AccessMiddleware
from augment_service.http.requests import RequestError
from augment_service.http.service import RETRY_SECONDS, Router, Service
from data.errors import InputError, ResumableError

PATHS = ("/health", "/metrics", "/status", "/v1/models", "/v1/completions", "/v1/chat/completions")


def build_app(service: Service, router: Router, *, key: str) -> ASGIApp:
    """The application; all paths but `/health` need the key."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    metrics = ServiceMetrics()
    _add_errors(app)
    _add_completions(app, service)

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

    return AccessMiddleware(
        app, key=key, metrics=metrics, known=frozenset(PATHS)
    )  # around all else, so that it counts 500s too


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return service.models()

    @app.post("/v1/completions")
    async def completions(body: requests.Completion) -> Response:
        return _rendered(await service.complete(body), body)

    @app.post("/v1/chat/completions")
    async def chat(body: requests.Chat) -> Response:
        return _rendered(await service.chat(body), body)


def _rendered(answer: dict[str, Any], body: requests.Request) -> Response:
    if not body.stream:
        return JSONResponse(answer)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    return StreamingResponse(_events(answer, with_usage), media_type="text/event-stream")


async def _events(answer: dict[str, Any], with_usage: bool) -> AsyncIterator[str]:
    """A stream of one chunk with the whole text: engines answer whole batches."""
    usage = answer.pop("usage")
    if answer["object"] == "chat.completion":
        answer["object"] = "chat.completion.chunk"
        for choice in answer["choices"]:
            choice["delta"] = choice.pop("message")
    yield f"data: {json.dumps(answer)}\n\n"
    if with_usage:
        yield f"data: {json.dumps({**answer, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form, with a status of the client or the server."""

    def refuse(error: RequestError) -> JSONResponse:
        return JSONResponse(error.content(), error.status, error.headers())

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        words = [str(word) for word in first["loc"] if word != "body"]
        param = words[0] if words else None
        return refuse(RequestError(400, f"{'.'.join(words) or 'body'}: {first['msg']}", code="invalid", param=param))

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> JSONResponse:
        return refuse(RequestError(400, f"{error.what}; {error.hint}", code="invalid", param=error.where))

    @app.exception_handler(ResumableError)
    async def unavailable(_: Request, error: ResumableError) -> JSONResponse:
        return refuse(RequestError(503, str(error), code="unavailable", wait=RETRY_SECONDS))

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: HTTPException) -> JSONResponse:
        return refuse(RequestError(error.status_code, error.detail, code="invalid"))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> JSONResponse:
        return refuse(RequestError(500, "the server failed, see its log", code="internal"))
