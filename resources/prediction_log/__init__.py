"""The prediction log: one record per prediction, in immutable segments, written before the answer leaves."""
