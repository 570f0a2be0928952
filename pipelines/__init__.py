"""What happens: the pure core, rollouts, experiments, monitoring, reports; and the programs on top."""
