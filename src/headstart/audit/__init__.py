"""What may be wrong with a data set: near-duplicates, wrong labels, mirror images that contradict the labels.

`unseen` needs SciPy, which a prediction does without, so it is imported at first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["unseen"])
