"""Carries decisions out: ledger, serving backend and registry together."""
