"""What is wrong with a data set: near-duplicates across its splits, labels that are probably wrong.

`unseen` starts SciPy, which a prediction does without: it is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["unseen"])
