"""A trained network in use: prediction, evaluation, explanation, by the fastest engine of the machine.

`engine` and `explain` start Keras, which most predictions do without, and `classifier` starts SciPy: they are imported when
they are first used.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["classifier", "engine", "explain"])
