"""Why a request got no prediction, with the HTTP status that says so."""

from typing import ClassVar

from pipelines.errors import RampgateError


class NoPrediction(RampgateError):
    """A request was answered without a prediction; the message goes to the caller and into the log."""

    status: ClassVar[int] = 500


class BadInput(NoPrediction):
    """The caller's tensors do not fit the signature: not a failure of the model."""

    status = 400


class TooLarge(NoPrediction):
    """More rows or bytes than one request may have; none of it is recorded but that it came."""

    status = 413


class PredictionFailed(NoPrediction):
    """The model raised, or returned something that is not one prediction a row."""

    status = 500


class NotRecorded(NoPrediction):
    """The prediction could not be logged: an answer without a record would be a silent loss."""

    status = 503
