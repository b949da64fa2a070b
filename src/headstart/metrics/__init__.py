"""Figures from logits and labels: pure functions of arrays."""
