"""Carries decisions out: ledger, serving backend and registry together."""

from resources.controller.controller import Controller, utc_now
from resources.controller.emergency import EMERGENCY, UNRECORDED
from resources.controller.registry import (
    CHALLENGER,
    CHAMPION,
    DRY_RUN,
    REASON_TAG,
    ROLLOUT_TAG,
    STATUS_TAG,
    Registry,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "DRY_RUN",
    "EMERGENCY",
    "REASON_TAG",
    "ROLLOUT_TAG",
    "STATUS_TAG",
    "UNRECORDED",
    "Controller",
    "Registry",
    "utc_now",
]
