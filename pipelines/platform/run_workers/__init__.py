"""Runs are forked from a process that has imported the libraries."""
