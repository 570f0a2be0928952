"""The experiment in a rollout: what to compare, one look at a time, and what it means for the rollout."""
