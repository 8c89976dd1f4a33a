"""Which setting of a sweep is better: MLflow → record → comparison → verdict → page, terminal, pictures."""
