"""The systems Rampgate talks to: registry, serving, lake, log source, ledger, notifier."""
