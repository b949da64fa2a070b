"""What is wrong with a data set: near-duplicates across its splits, labels that are probably wrong."""
