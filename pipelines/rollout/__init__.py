"""A rollout: a fold over events, and the pure decision on what comes next."""
