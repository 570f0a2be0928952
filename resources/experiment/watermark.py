"""Up to which request an analysis counts."""

from datetime import datetime, timedelta

from resources.lake.completeness import longest_latency
from resources.lake.connection import Lake

_LEAST_LAG = timedelta(seconds=4)
"""For what logs a request after its answer has left, as KServe's logger does."""
_MARGIN = timedelta(seconds=1)
_MOST_LAG = timedelta(minutes=2)
"""Whoever takes longer to answer is missing from a look; waiting for longer would miss the look."""


def watermark_of(lake: Lake, model: str, complete: datetime) -> datetime:
    """Every request before this has been answered, logged and loaded.

    A request is logged when it is answered, so it may be older than the segment it is in: by the longest latency.
    Raises LakeError.
    """
    lag = max(_LEAST_LAG, longest_latency(lake, model, complete) + _MARGIN)
    return complete - min(lag, _MOST_LAG)
