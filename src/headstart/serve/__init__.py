"""Trained models behind an HTTP address: for programs, and for people a page.

A request passes `connections` (slow and too many clients), `limits` (who may ask, and how much), `app` (what is asked),
`images` (from bodies to the model's input), `batching` (requests that are computed together) and `models` (the runs).
"""
