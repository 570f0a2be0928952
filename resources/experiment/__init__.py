"""The experiment in a rollout: what to compare, one look at a time, and what it means for the rollout."""

from resources.experiment.shadow import shadow_evidence
from resources.experiment.taking_looks import TakenLook, cells_of, past_looks, registered_in, take_look

__all__ = ["TakenLook", "cells_of", "past_looks", "registered_in", "shadow_evidence", "take_look"]
