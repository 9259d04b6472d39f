"""GET /v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from .. import requests
from ..service import Service


def add(app: FastAPI, service: Service) -> None:

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.served.created, "owned_by": "burnish"}

    @app.get("/v1/models")
    async def models() -> Response:
        """The served name, and `default`."""
        names = dict.fromkeys((service.served.name, requests.DEFAULT_NAME))
        return JSONResponse({"object": "list", "data": [model(name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        """One model; 404 for any other name."""
        requests.check_model(name, service.served)
        return JSONResponse(model(name))
