"""The model registry (MLflow): versions, aliases, tags, and what is inside a version."""
