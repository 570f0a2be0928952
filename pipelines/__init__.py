"""What a rollout is, and the Dagster wiring around it."""
