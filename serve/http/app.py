"""The ASGI application: all routes, errors in OpenAI's format, and the middleware."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from burnish.versions import version

from ..connection.wrong_keys import WrongKeys
from .access_log import Log
from .auth import Auth, Keys
from .errors import CLIENT_DISCONNECTED, ApiError, failed
from .exposure import Exposure, cors, host_names, web_origins
from .middleware import Middleware
from .routes import chat, completions, models, responses, status, tokens, web
from .routes.paths import allow_head, describe
from .service import Service

ROUTES = (status, models, chat, completions, responses, tokens, web)


def create_app(service: Service, keys: Keys, log: Log) -> Middleware:
    """Return the ASGI application with its routes, middleware and error handlers."""
    app = FastAPI(
        title="Burnish", version=version(), openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for routes in ROUTES:
        routes.add(app, service)
    allow_head(app)
    _add_error_handlers(app)
    settings = service.settings
    auth = Auth(keys, settings.max_requests_per_key, WrongKeys(settings.max_wrong_keys))
    origins = web_origins(settings)
    exposure = Exposure(host_names(settings), origins, keyed=bool(keys))
    return Middleware(app, auth, exposure, log, service.metrics, cors(app, origins))


def _add_error_handlers(app: FastAPI) -> None:
    routes = describe(app)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        request.state.code = error.code or error.kind
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        if error.status_code == 404:
            text = f"Unknown request URL: {request.method} {path}. Available: {routes}."
            fault = ApiError(404, text, code="unknown_url")
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            text = f"Method {request.method} is not allowed for {path}: use {allowed}."
            fault = ApiError(405, text, code="method_not_supported")
        else:
            fault = ApiError(error.status_code, str(error.detail))
        request.state.code = fault.code or fault.kind
        return JSONResponse(fault.body(), fault.status, headers=dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        """Return the status for log and metrics; no client sees it. `refused`: the connection's reply to a bad body."""
        status, request.state.code = getattr(request.state, "refused", (499, CLIENT_DISCONNECTED))
        return Response(status_code=status)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        request.state.code = "internal_error"
        return JSONResponse(failed("Internal server error; see the server log.").body(), 500)
