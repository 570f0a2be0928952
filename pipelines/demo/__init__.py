"""`make demo`: a story of four versions of the flight model."""
