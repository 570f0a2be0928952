"""Great Expectations and Evidently, behind a function each."""
