"""What is produced: versions, rollouts, prediction log, data quality, drift, experiment."""
