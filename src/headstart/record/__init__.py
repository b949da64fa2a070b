"""What a run's folder contains: configuration, split, history, manifest; and copies of the figures for other tools."""
