"""The registered model over HTTP, as MLflow's own scoring server understands it.

The model is read as JSON, safetensors and ONNX; code that lies with it is not run. What the page
of `catdog.serving.app` needs as well stands here: the model, the socket, the limit of a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import catdog
from catdog import CatdogError
from catdog.inference.classifier import Classifier, ServedClassifier
from catdog.inference.prediction import Options
from catdog.registry import load, versions

if TYPE_CHECKING:
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class ServedModel:
    """A classifier, the URI that was asked for, and the version it stood for when loaded."""

    classifier: Classifier
    uri: str
    version: str


@dataclass(frozen=True)
class _Checked:
    """What MLflow's scoring server asks; a client is told what it got wrong."""

    model: PyFuncModel

    @property
    def metadata(self) -> Model:
        return self.model.metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> object:
        from mlflow.exceptions import MlflowException

        if wrong := set(params or ()) - {field.name for field in fields(Options)}:
            raise MlflowException.invalid_parameter_value(
                f"no such params: {', '.join(sorted(wrong))}"
            )
        try:
            return self.model.predict(data, params)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


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

    It is MLflow's scoring server around a classifier that is loaded already, but for `/version`,
    which says which model answers, and for errors: they are a sentence, and tell nothing of the
    server.
    """
    # The page, which shares this module, need not wait for them.
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel, scoring_server
    from mlflow.types.schema import ColSpec, Schema

    from catdog.registry.register import signature_of

    signature = signature_of(model.classifier.about.classes)
    # As text it comes to us whole: what is no base64, MLflow would decode all the same.
    signature.inputs = Schema([ColSpec("string", "image")])
    scored = PyFuncModel(Model(signature=signature), ServedClassifier(model.classifier))
    checked = _Checked(scored)

    async def invocations(request: Request) -> Response:
        body, kind = await request.body(), request.headers.get("content-type", "")
        try:
            answer = await asyncio.to_thread(
                scoring_server.invocations, body, kind, checked, signature.inputs
            )
        except MlflowException as error:  # without its stack trace
            if "stack_trace" in error.json_kwargs:
                logger.exception("a request could not be answered")
            content = {"error_code": error.error_code, "message": error.message}
            return JSONResponse(content, error.get_http_status_code())
        except (ValueError, RecursionError):
            return JSONResponse({"message": "the body is no JSON that can be read"}, 400)
        return Response(answer.response, answer.status, media_type=answer.mimetype)

    def version(_: Request) -> Response:
        return JSONResponse(
            {"catdog": catdog.__version__, "model_uri": model.uri, "version": model.version}
        )

    return Starlette(
        routes=[
            Route("/version", version),
            Route("/invocations", invocations, methods=["POST"]),
            Mount("/", scoring_server.init(scored)),
        ],
        middleware=guards(host, max_body_bytes),
    )


def guards(host: str, max_body_bytes: int) -> list[Middleware]:
    """What stands before an app that listens at `host`, and takes bodies of so many bytes."""
    limit = Middleware(RequestBodyLimitMiddleware, max_body_size=max_body_bytes)
    if host not in LOOPBACK:
        return [limit]
    # Another site's name that is made to point here is turned away.
    return [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)), limit]


def serve(model: ServedModel, host: str, port: int, *, max_body_bytes: int) -> None:
    """Serve until Ctrl-C, and say where.

    Raises:
        CatdogError: the host is no address of this machine, or the port is taken.
    """
    listener = listen(host, port)
    if host not in LOOPBACK:
        logger.warning(f"--host {host} lets everyone who can reach this machine ask the model")
    logger.info(f"{model.uri} answers at {url_of(listener, host)}/invocations (Ctrl-C ends it)")
    run(web_app(model, host, max_body_bytes), listener, grace_s=5)


def run(app: ASGIApp, listener: socket.socket, *, grace_s: int) -> None:
    """Serve an app until Ctrl-C; requests that are underway have `grace_s` seconds to end."""
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=grace_s)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `port`, or at a free port for 0.

    Raises:
        CatdogError: the host is no address of this machine, or the port is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CatdogError(
            f"--host {host} --port {port} can't be listened at ({error.strerror or error}): "
            "leave out --host for 127.0.0.1, and name a free port, or 0 for any."
        ) from error


def url_of(listener: socket.socket, host: str) -> str:
    """The address to type on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{listener.getsockname()[1]}"
