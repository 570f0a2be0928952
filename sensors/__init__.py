"""What Dagster reacts to: thin shells around `pipelines`."""
