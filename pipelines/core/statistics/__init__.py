"""Sequential tests, intervals and planning, from sufficient statistics."""
