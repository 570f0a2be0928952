"""Carries decisions out: ledger, serving backend and registry together."""

from resources.controller.controller import Controller, utc_now
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
    "REASON_TAG",
    "ROLLOUT_TAG",
    "STATUS_TAG",
    "Controller",
    "Registry",
    "utc_now",
]
