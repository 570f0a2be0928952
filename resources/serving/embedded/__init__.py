"""Serving on one machine with real parts: supervisord, Envoy, KServe model servers."""

from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.predictors import Launch, PredictorCommand, model_server, options
from resources.serving.embedded.restore import restore, unserved

__all__ = [
    "EmbeddedBackend",
    "Launch",
    "Layout",
    "PredictorCommand",
    "model_server",
    "options",
    "restore",
    "unserved",
]
