"""Any OpenAI endpoint, through the official client, which retries as requested by the server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from .endpoints import EndpointError, Json, Lost, Refused, message_of

KEY = "OPENAI_API_KEY"
PARALLEL = 16
RETRIES = 6
# statuses that concern the whole job and not one row
FATAL = frozenset({401, 403, 404, 405})
BUSY = frozenset({429, 503})  # also after the client's retries
CONNECT_S = 30.0
MAX_SHOWN = 5
ALIAS = "default"  # a second name of a model that Burnish serves


class RemoteEndpoint:
    """Implements Endpoint with an openai.AsyncOpenAI client."""

    parallel = PARALLEL

    def __init__(self, client: Any, url: str, model: str, timeout_s: float) -> None:
        self._client, self._url, self._model, self._timeout_s = client, url, model, timeout_s
        self._answered = False
        self.identity: Mapping[str, Any] = {"url": url, "model": model}

    async def ask(self, path: str, body: Json) -> Json:
        import openai

        try:
            content = {"model": self._model, **body}
            async with asyncio.timeout(self._timeout_s):  # also over the client's retries
                reply = await self._client.post(path.removeprefix("/v1"), cast_to=object, body=content)
        except openai.APIStatusError as error:
            if error.status_code not in FATAL | BUSY:
                raise Refused(_said(error)) from None
            if error.status_code in BUSY or self._answered:  # a key that was accepted before
                raise Lost(str(explain(error, self._url))) from None
            raise explain(error, self._url) from None
        except openai.APIError as error:
            raise Lost(str(explain(error, self._url))) from None
        except TimeoutError:
            raise Lost(f"{self._url}: no answer within {self._timeout_s:g} s (--request_timeout_s)") from None
        self._answered = True
        if not isinstance(reply, dict):
            raise EndpointError(f"{self._url}: the reply is not a JSON object: is this an OpenAI endpoint?")
        return dict(reply)


@asynccontextmanager
async def connected(url: str, model: str | None, timeout_s: float) -> AsyncIterator[RemoteEndpoint]:
    """Connect to an endpoint for the duration of the block. Raises EndpointError if it does not respond."""
    import openai

    key = os.environ.get(KEY) or "none"
    timeout = openai.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=timeout) as client:
        yield RemoteEndpoint(client, url.rstrip("/"), model or await _only_model(client, url), timeout_s)


async def _only_model(client: Any, url: str) -> str:
    import openai

    try:
        names = [str(model.id) for model in (await client.with_options(max_retries=1, timeout=30).models.list()).data]
    except openai.APIError as error:
        raise explain(error, url) from None
    names = [name for name in names if name != ALIAS] or names
    if len(names) != 1:
        shown = f"{', '.join(names[:MAX_SHOWN])}{' …' if len(names) > MAX_SHOWN else ''}"
        raise EndpointError(f"{url} has {len(names)} models ({shown}): choose one with --url_model")
    return names[0]


def _said(error: Any) -> str:
    return message_of({"error": error.body} if isinstance(error.body, dict) else error.body, error.status_code)


def explain(error: Exception, url: str) -> EndpointError:
    """Return the error of an endpoint that can't be used."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return EndpointError(f"{url}: no answer in time: try again with a larger --request_timeout_s")
    if isinstance(error, openai.APIConnectionError):
        return EndpointError(f"{url}: no server responds: check the address; rows answered so far are kept")
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return EndpointError(f"{url}: the key in {KEY} was rejected: {_said(error)}")
    return EndpointError(f"{url}: {_said(error) if isinstance(error, openai.APIStatusError) else error}")
