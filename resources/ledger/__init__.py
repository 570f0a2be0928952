"""The ledger of rollouts: what happened, what was decided, whom to tell."""
