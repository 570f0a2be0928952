"""Reactions: challenger, guardrail (roll back), rollout (advance, promote)."""
