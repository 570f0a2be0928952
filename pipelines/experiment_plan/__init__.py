"""The sample-size calculator for people without history: `python -m pipelines.experiment_plan --help`."""
