"""One mean of a Parquet file of exposures by another package: prints seconds, without its imports.

    python benchmarks/bucket_parts/peers.py tea_tasting|spotify_confidence <file>

A script of its own, because spotify-confidence brings notebooks and browsers along and has an environment to itself.
"""

import sys
import time


def tea_tasting(file: str) -> float:
    """In DuckDB, through narwhals."""
    import duckdb
    import tea_tasting as tt

    begin = time.perf_counter()
    table = duckdb.read_parquet(file).select("challenger AS variant, y1 AS revenue")
    tt.Experiment(revenue=tt.Mean("revenue")).analyze(table)
    return time.perf_counter() - begin


def spotify_confidence(file: str) -> float:
    """From sums made with pandas, as its documentation shows."""
    import pandas as pd
    import spotify_confidence as confidence

    begin = time.perf_counter()
    frame = pd.read_parquet(file, columns=["challenger", "y1"])
    frame = frame.assign(yy=frame.y1**2, n=1).groupby("challenger", as_index=False).sum()
    test = confidence.ZTest(
        frame,
        numerator_column="y1",
        numerator_sum_squares_column="yy",
        denominator_column="n",
        categorical_group_columns="challenger",
    )
    test.difference(level_1=False, level_2=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    run = {"tea_tasting": tea_tasting, "spotify_confidence": spotify_confidence}[sys.argv[1]]
    print(run(sys.argv[2]))
