"""The report of a run: pages for people, every figure of which comes from the run's own files."""
