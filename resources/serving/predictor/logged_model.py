"""The KServe model: tensors -> data frame -> MLflow pyfunc -> tensors, and a record of every answer."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

# This module is imported by the predictor process alone, which cannot do without.
from kserve import InferInput, InferRequest, Model  # noqa: TID253

from pipelines.core.manifest.model import PredictionLog
from resources.prediction_log.cloudevents import Origin, Prediction, header_text, prediction_lines, usable_ids
from resources.prediction_log.segments import LogNotWritten, SegmentWriter
from resources.registry.signature import Column, ModelSchema
from resources.serving.predictor.inputs import (
    Inputs,
    NoPrediction,
    NotRecorded,
    PredictionFailed,
    Tensor,
    TooLarge,
)
from resources.serving.predictor.outputs import output_tensors

REQUEST_ID = "x-request-id"

_LIMITS = PredictionLog()

ASSIGNMENT = "x-assignment"

RECORDED_HEADERS = ("x-unit-id", ASSIGNMENT, "x-call-id", REQUEST_ID)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one request gets: the v2 response, or the reason why there is none."""

    body: Mapping[str, Any]
    failure: NoPrediction | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 200 if self.failure is None else self.failure.status


class ServedModel(Model):
    """Serves a pyfunc and writes each answer to the prediction log before it leaves.

    Predictions run one at a time on a thread of their own, so that a slow model does not keep the event loop
    from answering health checks. Every answer leaves a record, whatever the model raises; an answer that cannot be
    logged becomes a 503.
    """

    def __init__(
        self, pyfunc: Any, origin: Origin, writer: SegmentWriter, limits: PredictionLog = _LIMITS
    ) -> None:
        """`pyfunc` is a loaded `mlflow.pyfunc.PyFuncModel`. Raises `VersionRefused` without a usable signature."""
        super().__init__(origin.service, return_response_headers=True)
        self._pyfunc = pyfunc
        signature = pyfunc.metadata.signature
        self._schema = ModelSchema.of_mlflow(None if signature is None else signature.to_dict())
        self._inputs = Inputs(self._schema.inputs)
        self._version = origin.version
        self._attributes = origin.attributes()
        self._writer = writer
        self.limits = limits
        self._predicting = ThreadPoolExecutor(
            1, thread_name_prefix="predict", initializer=_compute_on_this_thread
        )
        self._writing = ThreadPoolExecutor(16, thread_name_prefix="log")
        self.ready = True

    async def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, payload: InferRequest, headers: Mapping[str, str], response_headers: dict[str, str]
    ) -> Mapping[str, Any]:
        """The v2 response as a dict. Raises `NoPrediction` with the status the caller gets."""
        rows = max((item.shape[0] for item in payload.inputs if item.shape), default=0)
        if rows > self.limits.max_rows:
            words = f"{f'{rows:,}':.80} rows in one request; at most {self.limits.max_rows:,} are taken: send several requests"
            await self.refuse(TooLarge(words), headers)
        tensors = [_tensor(item) for item in payload.inputs]

        told = headers.get(ASSIGNMENT) != "weighted"

        def answer(request_id: str) -> Answer:
            return self._answer(tensors, payload.id, request_id, told=told)

        return await self._recorded(answer, tensors, headers, response_headers)

    async def refuse(self, failure: NoPrediction, headers: Mapping[str, str]) -> None:
        """Record a request that is none, or too large, without what it holds; and raise `failure`."""
        refused = Answer(body={"error": str(failure)}, failure=failure)
        await self._recorded(lambda _: refused, [], headers, {})

    async def _recorded(
        self,
        answer_to: Callable[[str], Answer],
        tensors: Sequence[Tensor],
        headers: Mapping[str, str],
        response_headers: dict[str, str],
    ) -> Mapping[str, Any]:
        requested_at, started = datetime.now(UTC), time.perf_counter()
        record_id = str(uuid4())
        named = usable_ids({name: header_text(headers.get(name, "")) for name in RECORDED_HEADERS})
        if REQUEST_ID not in named and headers.get(REQUEST_ID):
            named[REQUEST_ID] = record_id  # what it was called is no id: it is told another
        request_id = named.get(REQUEST_ID, record_id)
        response_headers[REQUEST_ID] = headers[REQUEST_ID] if request_id != record_id else record_id
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._predicting, answer_to, request_id)
        prediction = Prediction(
            record_id=record_id,
            metadata=named,
            requested_at=requested_at,
            latency_ms=(time.perf_counter() - started) * 1000,
            status=answer.status,
            inputs=[vars(tensor) for tensor in tensors],
            answer=answer.body,
        )
        if self._writer.waits_for_disk:
            await loop.run_in_executor(self._writing, self._record, prediction)
        else:
            self._record(prediction)
        if answer.failure is not None:
            raise answer.failure
        return answer.body

    def _answer(
        self, tensors: Sequence[Tensor], caller_id: str | None, request_id: str, *, told: bool
    ) -> Answer:
        """Live traffic is not `told` which version answered: whoever knows can choose whom to ask."""
        try:
            outputs = self._outputs(tensors)
        except NoPrediction as failure:
            return _failed(failure, request_id)
        # Whatever a model raises, `SystemExit` included, its caller gets an answer and the log a record.
        except BaseException as error:  # noqa: BLE001 -- a model is somebody else's code
            failure = PredictionFailed(f"the answer could not be made: {_in_words(error)}")
            failure.__cause__ = error
            return _failed(failure, request_id)
        return Answer(
            body={
                "model_name": self.name,
                **({"model_version": self._version} if told else {}),
                "id": caller_id or request_id,
                "outputs": outputs,
            }
        )

    def _outputs(self, tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
        asked, rows = self._inputs.read(tensors)
        try:
            predictions = self._pyfunc.predict(asked)
        except BaseException as error:
            raise PredictionFailed(f"the model failed: {_in_words(error)}") from error
        return output_tensors(predictions, self._schema.outputs, rows=rows)

    def _record(self, prediction: Prediction) -> None:
        try:
            self._writer.append(prediction_lines(self._attributes, prediction))
        except LogNotWritten as error:
            _log.error("request %s: %s", prediction.record_id, error)
            raise NotRecorded(f"not answered because it could not be logged: {error}") from error

    def get_input_types(self) -> list[dict[str, Any]]:
        """The signature's inputs, for `GET /v2/models/<name>`."""
        return [_announced(column) for column in self._schema.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The signature's outputs."""
        return [_announced(column) for column in self._schema.outputs]

    def stop(self) -> None:
        """Called by the server when its last request is answered."""
        self.ready = False


def _compute_on_this_thread() -> None:
    """Whatever `n_jobs` an artefact asks for: ten thousand threads or processes would take the machine."""
    from joblib import parallel_config

    parallel_config(backend="sequential")


def _tensor(item: InferInput) -> Tensor:
    data = item.data
    assert isinstance(data, list), "the server reads JSON alone"
    return Tensor(name=item.name, shape=item.shape, datatype=item.datatype, data=data)


def _announced(column: Column) -> dict[str, Any]:
    shape = [-1, *column.shape] if column.many else [-1]
    return {"name": column.name, "datatype": column.datatype, "shape": shape}


def _failed(failure: NoPrediction, request_id: str) -> Answer:
    if isinstance(failure, PredictionFailed):
        _log.error("request %s: %s", request_id, failure, exc_info=failure.__cause__)
    return Answer(body={"error": str(failure)}, failure=failure)


def _in_words(error: BaseException) -> str:
    """The error's kind. Its text may quote rows: it stays in this predictor's log, under the request's id."""
    return f"{type(error).__name__[:100]}; the predictor's log has its text"
