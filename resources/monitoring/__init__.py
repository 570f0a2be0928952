"""Data checks, drift and pictures: evaluators on data frames with `features.<name>` / `outputs.<name>` columns.

`data_checks.check_window` runs Great Expectations, `drift.compare` runs Evidently, `evidence` turns their
reports into evidence for a rollout, `pictures` draws what the Dagster UI shows. They know nothing of
Dagster or of the lake: an asset hands in frames and stores what comes back.
"""
