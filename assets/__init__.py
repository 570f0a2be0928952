"""What Dagster produces: thin shells around `pipelines`."""
