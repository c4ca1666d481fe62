"""The registered model over HTTP, in the words of `mlflow models serve` and without its code.

`POST /invocations` takes and gives what MLflow's scoring server does, for pictures as base64.
The model is read as JSON, safetensors and ONNX; code that lies with it is not run. What the page
of `catdog.serving.app` needs as well stands here: the model, the socket, the limit of a body.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import logging
import math
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from time import monotonic
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import catdog
from catdog import CatdogError, Classes
from catdog.data.classes import as_outside
from catdog.data.images import UnreadableImageError
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction
from catdog.registry import load, versions

logger = logging.getLogger(__name__)

INVOCATIONS = "/invocations"
AT_ONCE = 4
"""Requests whose bodies are in memory; the others wait."""
MOST_PHOTOS = 10_000
"""In one request: an empty one takes three bytes, and its answer a hundred times as many."""
PATIENCE_S = 60.0
"""For the whole of a body to come."""
WORK_S = 300.0
"""For the answers to a request; pictures whose turn comes later get an error."""
OTHER_BYTES = 2**20
"""Of a request to any other address."""
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class ServedModel:
    """A classifier, the URI that was asked for, and the version it stood for when loaded."""

    classifier: Classifier
    uri: str
    version: str


class _BadRequestError(Exception):
    """What was asked can't be understood; the text says why."""


def load_model(model_uri: str, *, device: str = "auto") -> ServedModel:
    """The model that a URI names, and which version that is just now.

    Raises:
        CatdogError: the URI names none, or the device is not there.
    """
    exact = versions.exact(model_uri)
    classifier = load.load_classifier(exact, device=device)
    _, _, version = exact.removeprefix("models:/").rpartition("/")
    return ServedModel(classifier, model_uri, version if exact.startswith("models:/") else "")


def web_app(model: ServedModel, host: str, max_body_bytes: int) -> Starlette:
    """The server as an ASGI app.

    `/ping` and `/health` answer while it runs, `/version` says which model answers.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def invocations(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refused(415, "Content-Type must be application/json")
        async with turn:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    body = await request.body()
                predictions = await asyncio.to_thread(answer, model, body)
            except ClientDisconnect:
                return _refused(400, "the client has gone")
            except TimeoutError:
                return _refused(408, f"the request was not whole after {PATIENCE_S:g} seconds")
            except _BadRequestError as error:
                return _refused(400, str(error))
        return JSONResponse({"predictions": predictions})

    def alive(_: Request) -> Response:
        return PlainTextResponse("\n")

    def version(_: Request) -> Response:
        return JSONResponse(
            {"catdog": catdog.__version__, "model_uri": model.uri, "version": model.version}
        )

    routes = [
        Route("/ping", alive),
        Route("/health", alive),
        Route("/version", version),
        Route(INVOCATIONS, invocations, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=guards(host, {INVOCATIONS: max_body_bytes}))


def guards(host: str, limits: Mapping[str, int]) -> list[Middleware]:
    """What stands before an app that listens at `host`, for bodies of so many bytes, by path."""
    limit = Middleware(BodyLimit, limits=limits)
    if host not in LOOPBACK:
        return [limit]
    # Another site's name that is made to point here is turned away.
    return [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)), limit]


class BodyLimit:
    """Turns away a request that says, or is found, to be larger than its address needs."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        """`limits` in bytes by path; of other paths it is `OTHER_BYTES`."""
        self._others = RequestBodyLimitMiddleware(app, OTHER_BYTES)
        self._limited = {
            path: RequestBodyLimitMiddleware(app, limit) for path, limit in limits.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on to the app, as far as its limit goes."""
        await self._limited.get(scope.get("path", ""), self._others)(scope, receive, send)


def answer(model: ServedModel, body: bytes) -> list[dict[str, Any]]:
    """The predictions for the pictures in the JSON of a request, in their order.

    Raises:
        _BadRequestError: it is not what a request should be.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _BadRequestError("the body must be an object with dataframe_records")
    options = _options(asked.pop("params", None) or {})
    images = _images(asked)
    if len(images) > MOST_PHOTOS:
        raise _BadRequestError(f"{len(images)} pictures are more than {MOST_PHOTOS} at once")
    contents = [_decoded(number, image) for number, image in enumerate(images)]
    classes = model.classifier.about.classes
    end = monotonic() + WORK_S

    def in_time(content: bytes) -> bytes:
        if monotonic() > end:
            raise UnreadableImageError(f"the request took over {WORK_S:g} s: send fewer at once")
        return content

    answers = model.classifier.stream(contents, in_time, options)
    return [_row(prediction, classes) for _, prediction in answers]


def serve(model: ServedModel, host: str, port: int, *, max_body_bytes: int) -> None:
    """Serve until Ctrl-C, and say where.

    Raises:
        CatdogError: the host is no address of this machine, or the port is taken.
    """
    listener = listen(host, port, or_free=False)
    if host not in LOOPBACK:
        logger.warning(f"--host {host} lets everyone who can reach this machine ask the model")
    logger.info(f"{model.uri} answers at {url_of(listener, host)}{INVOCATIONS} (Ctrl-C ends it)")
    run(web_app(model, host, max_body_bytes), listener, grace_s=5)


def run(app: ASGIApp, listener: socket.socket, *, grace_s: int) -> None:
    """Serve an app until Ctrl-C; requests that are underway have `grace_s` seconds to end."""
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=grace_s)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listener])


def listen(host: str, port: int, *, or_free: bool = True) -> socket.socket:
    """A socket that listens at `port`, or, `or_free`, at a free port where that is taken.

    Raises:
        CatdogError: the host is no address of this machine, or the port is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if or_free and port and error.errno == errno.EADDRINUSE:
            return listen(host, 0)
        raise CatdogError(
            f"--host {host} --port {port} can't be listened at ({error.strerror or error}): "
            "leave out --host for 127.0.0.1, and name a free port from 1024 to 65535."
        ) from error


def url_of(listener: socket.socket, host: str) -> str:
    """The address to type on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{listener.getsockname()[1]}"


def _images(asked: dict[str, Any]) -> list[Any]:
    """The column `image` of a table in one of the two ways that MLflow writes it."""
    try:
        match asked:
            case {"dataframe_records": records} if len(asked) == 1:
                return [record["image"] for record in records]
            case {"dataframe_split": {"columns": columns, "data": rows}} if len(asked) == 1:
                place = columns.index("image")
                return [row[place] for row in rows]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise _BadRequestError("the table has no column image in each row") from error
    raise _BadRequestError(
        'give {"dataframe_records": [{"image": "<base64>"}]}, or dataframe_split with columns '
        "and data; and params beside it"
    )


def _options(params: Any) -> Options:
    known = [field.name for field in fields(Options)]
    if not isinstance(params, dict) or not set(params) <= set(known):
        raise _BadRequestError(f"params must be an object with some of {', '.join(known)}")
    for name, value in params.items():
        wanted = (int, float) if name == "threshold" else (bool,)
        if type(value) not in wanted:  # a bool is an int, too
            raise _BadRequestError(f"params: {name} can't be {json.dumps(value)[:40]}")
    options = Options(**params)
    if not 0 <= options.threshold <= 1:
        raise _BadRequestError(f"params: threshold={options.threshold:g} must be from 0 to 1")
    return options


def _decoded(number: int, image: Any) -> bytes:
    try:
        return base64.b64decode(image)
    except (TypeError, ValueError) as error:
        raise _BadRequestError(f"image {number} is not base64: {error}") from error


def _row(prediction: Prediction, classes: Classes) -> dict[str, Any]:
    """A row of the answer; JSON has no nan."""
    row = as_outside(asdict(prediction), classes)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error_code": "BAD_REQUEST", "message": why}, status_code=status)
