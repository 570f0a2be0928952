"""Serving on one machine with real parts: supervisord, Envoy, KServe model servers."""
