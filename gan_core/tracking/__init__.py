"""A run and its record in MLflow, which nothing else in this package knows."""
