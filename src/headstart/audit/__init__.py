"""What is wrong with a data set: near-duplicates across its parts, labels that are probably wrong."""
