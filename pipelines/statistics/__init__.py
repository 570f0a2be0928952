"""Sequential tests, planning, sample-ratio checks, variance reduction: numpy and scipy only."""
