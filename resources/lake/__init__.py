"""The lake: what was predicted and what came of it, in DuckDB with DuckLake. See docs/lake.md."""
