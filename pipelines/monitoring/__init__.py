"""Per window: data checks, drift, and what they mean for a rollout."""
