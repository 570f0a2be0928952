"""A version against the champion on logged requests, before any traffic."""

from resources.validation.answers import Predict
from resources.validation.comparison import OfflineComparison, compare_offline

__all__ = ["OfflineComparison", "Predict", "compare_offline"]
