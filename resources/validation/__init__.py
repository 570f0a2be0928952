"""A version against the champion on logged requests, before any traffic."""

from resources.validation.answers import Predict
from resources.validation.comparison import COMPARISON, REPLAY, compare_offline, impossible, replay

__all__ = ["COMPARISON", "REPLAY", "Predict", "compare_offline", "impossible", "replay"]
