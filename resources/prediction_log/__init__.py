"""The prediction log: one record per prediction, in immutable segments, written before the answer leaves.

`segments` writes and seals files of complete lines; `cloudevents` builds the lines.
"""

from resources.prediction_log.cloudevents import (
    Origin,
    Prediction,
    header_text,
    prediction_lines,
    usable_ids,
)
from resources.prediction_log.segments import (
    Durability,
    LogNotWritten,
    SegmentWriter,
    closed_segments,
    seal_abandoned,
)

__all__ = [
    "Durability",
    "LogNotWritten",
    "Origin",
    "Prediction",
    "SegmentWriter",
    "closed_segments",
    "header_text",
    "prediction_lines",
    "seal_abandoned",
    "usable_ids",
]
