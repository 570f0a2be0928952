"""External systems, each the single owner of its protocol, its tables and its SQL."""
