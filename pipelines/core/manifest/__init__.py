"""A model is a folder: its `rollout.yaml` and `inferenceservice.yaml`, typed and checked."""
