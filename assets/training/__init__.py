"""Recipes that train and register model versions."""
