"""Pure: manifests, decisions, statistics. It imports nothing else of ours and knows no outside."""
