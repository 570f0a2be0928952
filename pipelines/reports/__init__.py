"""One page per rollout: what happened, what was decided, and why."""
