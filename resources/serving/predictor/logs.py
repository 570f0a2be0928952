"""What a predictor writes to stderr: its start and its end, and few of a broken model's stack traces."""

import logging.config
import time

STARTS = "predictor starts"

LOADED = "loaded after"
"""Printed, whatever a model does with logging: what lies between the two comes from no request."""

_TRACES_PER_MINUTE = 5


class ErrorLimit(logging.Filter):
    """Lets `per_minute` errors through and counts the rest: a broken model must not fill the disk with traces."""

    def __init__(self, per_minute: int) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._window = 0.0
        self._seen = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record; the first error of a minute tells how many were left out before."""
        if record.levelno < logging.ERROR:
            return True
        now = time.monotonic()
        if now - self._window >= 60:
            left_out = max(0, self._seen - self._per_minute)
            self._window, self._seen = now, 0
            if left_out:
                record.msg = f"({left_out} more left out) {record.msg}"
        self._seen += 1
        return self._seen <= self._per_minute


def configure_logging() -> None:
    """Everything to stderr; nothing per request, since the gateway owns the access log."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
            "filters": {"few": {"()": ErrorLimit, "per_minute": _TRACES_PER_MINUTE}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["few"]}
            },
            "root": {"level": "INFO", "handlers": ["stderr"]},
            "loggers": {
                "kserve": {"level": "WARNING"},
                "uvicorn.access": {"level": "WARNING"},
            },
        }
    )
