"""Figures from logits and labels: pure functions of arrays.

`classification` needs scikit-learn, which a prediction does without, so it is imported at first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["classification"])
