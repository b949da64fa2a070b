"""A trained network in use: prediction, evaluation, explanation, by the fastest engine of the machine."""
