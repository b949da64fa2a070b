"""Layers and networks that compute the same functions in less time, mostly for training on CPUs."""
