"""Figures from logits and labels: pure functions of arrays.

`classification` starts scikit-learn, which a prediction does without: it is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["classification"])
