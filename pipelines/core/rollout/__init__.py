"""A rollout as events, the state folded from them, and `decide()`."""
