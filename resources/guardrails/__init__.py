"""The fast guardrails: the serving side's own counters, judged several times a second."""

from resources.guardrails.counting import REPEATED, ServingMetric, difference, serving_metrics
from resources.guardrails.watch import GuardrailWatch

__all__ = ["REPEATED", "GuardrailWatch", "ServingMetric", "difference", "serving_metrics"]
