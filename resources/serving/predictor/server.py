"""KServe's ModelServer on loopback: inference routes alone, v2 error answers, no work for logs nobody reads."""

from typing import Any, ClassVar

import orjson

# Like `logged_model`, imported by the predictor process alone.
from fastapi import FastAPI, Request
from kserve import Model, ModelServer, model_server  # noqa: TID253
from kserve.errors import InvalidInput  # noqa: TID253
from kserve.protocol.rest.server import RESTServer, metrics_handler  # noqa: TID253
from kserve.protocol.rest.v2_datamodels import InferenceRequest  # noqa: TID253
from kserve.protocol.rest.v2_endpoints import V2Endpoints  # noqa: TID253
from pydantic import ValidationError
from starlette.responses import JSONResponse

from resources.serving.predictor.inputs import BadInput, NoPrediction, TooLarge
from resources.serving.predictor.logged_model import ServedModel
from resources.settings import HOST


def serve(model: Model, *, port: int, host: str = HOST, grace_seconds: int = 30) -> None:
    """Serve one loaded model until SIGTERM; requests in flight are finished first."""
    LoopbackREST.host = host
    model_server.RESTServer = LoopbackREST  # kserve 0.21 has no parameter for it
    server = ModelServer(
        http_port=port,
        enable_grpc=False,
        workers=1,
        enable_latency_logging=False,
        grace_period=grace_seconds,
        ssl_certfile=None,
        ssl_keyfile=None,
    )
    server.start([model])


class LoopbackREST(RESTServer):
    """KServe's REST server without what a gateway in front of it makes dangerous or useless.

    - It binds loopback unless told otherwise (in a pod); KServe has 0.0.0.0 fixed in the code.
    - It has the v2 routes alone: `/v2/repository/models/<name>/unload` would let any caller take the model out
      of service, and every route in front costs each request a match.
    - It has no timing middleware, which formats two log lines per request whether or not they are wanted.
    """

    host: ClassVar[str] = HOST

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.host = self.host
        self.config.access_log = False

    def _register_endpoints(self, app: FastAPI) -> None:
        v2 = JsonEndpoints(self.dataplane)
        app.router.default_response_class = V2Response
        app.add_api_route("/v2/models/{model_name}/infer", v2.infer_json, methods=["POST"])
        app.add_api_route("/v2/health/ready", v2.ready)
        app.add_api_route("/v2/health/live", v2.live)
        app.add_api_route("/v2/models/{model_name}/ready", v2.model_ready)
        app.add_api_route("/v2/models/{model_name}", v2.model_metadata)
        app.add_api_route("/v2/models", v2.models)
        app.add_api_route("/v2", v2.metadata)
        app.add_api_route("/metrics", metrics_handler, response_model=None)

    def _add_middlewares(self, app: FastAPI) -> None:
        pass

    def _add_exception_handlers(self, app: FastAPI) -> None:
        super()._add_exception_handlers(app)
        app.add_exception_handler(NoPrediction, _no_prediction)


class V2Response(JSONResponse):
    """JSON by orjson, where a NaN becomes null instead of an error."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


class JsonEndpoints(V2Endpoints):
    """Inference as JSON in and out, read and written once; the binary tensor extension is not served."""

    async def infer_json(self, request: Request, model_name: str) -> V2Response:
        """POST /v2/models/<name>/infer. A request that cannot be read is recorded as well."""
        model, headers = await self.dataplane.get_model(model_name), dict(request.headers)
        assert isinstance(model, ServedModel), "nothing else is served"
        try:
            content = await _content(request, model.limits.max_bytes)
            body = InferenceRequest.model_validate_json(content)
            decoded, _ = self.dataplane.decode(body, headers, model_name=model_name)
        except (ValidationError, InvalidInput) as error:
            await model.refuse(BadInput(f"not a v2 inference request: {_mistake(error)}"), headers)
            raise
        except TooLarge as error:
            await model.refuse(error, headers)
            raise
        answer, response_headers = await self.dataplane.infer(model_name, decoded, headers)
        return V2Response(answer, headers=response_headers)


async def _content(request: Request, most: int) -> bytes:
    """The body; raises `TooLarge` before more than that is held."""
    said = request.headers.get("content-length", "")
    parts: list[bytes] = []
    size = int(said) if said.isdecimal() else 0
    if size <= most:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                break
            parts.append(part)
    if size > most:
        raise TooLarge(
            f"the request has more than {most:,} bytes, which is what is taken: send several requests"
        )
    return b"".join(parts)


def _mistake(error: ValidationError | InvalidInput) -> str:
    return _first_mistake(error) if isinstance(error, ValidationError) else error.reason


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}"


async def _no_prediction(_: Any, error: Exception) -> JSONResponse:
    assert isinstance(error, NoPrediction)
    return V2Response({"error": str(error)}, status_code=error.status)
