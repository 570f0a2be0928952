"""Reactions: challenger, evidence, guardrail (roll back), rollout (advance, promote), routine, alerts."""
