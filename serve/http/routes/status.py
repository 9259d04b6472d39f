"""Health, version and metrics."""

from __future__ import annotations

import sys

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from burnish.versions import commit, version

from ..service import Service


def add(app: FastAPI, service: Service) -> None:

    @app.get("/health/live")
    async def live() -> Response:
        """200 while the process responds."""
        return JSONResponse({"status": "live"})

    def state() -> str:
        return "failed" if service.engine.broken else "draining" if service.engine.draining else "ready"

    @app.get("/health/ready")
    async def ready() -> Response:
        """200 while requests are accepted; 503 while the server drains or after an engine failure."""
        return JSONResponse({"status": state()}, 200 if state() == "ready" else 503)

    @app.get("/health")
    async def health() -> Response:
        """Like `/health/ready`, with the status `ok` that llama.cpp's server returns."""
        return JSONResponse({"status": "ok" if state() == "ready" else state()}, 200 if state() == "ready" else 503)

    here = {"version": version(), "commit": commit(), "python": sys.version.split()[0]}

    @app.get("/version")
    async def versions() -> Response:
        """Versions, the loaded model, and its record: measurements, verdict, thresholds."""
        model = {"model": service.served.name, "context_length": service.context}
        return JSONResponse({**here, **model, **service.served.record})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' format."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
