"""What lies in a run's folder: files that are whole or absent, the split, copies of the figures for other tools."""
