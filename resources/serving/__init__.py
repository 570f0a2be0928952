"""Two serving backends, one contract."""
