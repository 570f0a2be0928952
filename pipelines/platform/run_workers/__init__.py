"""A process of its own for every run, forked from one that has imported everything: a run starts in a moment."""
