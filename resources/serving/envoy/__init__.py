"""Envoy configuration from a small description; pure, and shared by every gateway that we run."""
