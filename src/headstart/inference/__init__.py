"""Use a trained network: prediction and explanation, by the fastest engine on this machine.

`engine` and `explain` need Keras, which most predictions do without, and `classifier` and `shipped` need SciPy, so they are
imported at first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["classifier", "engine", "explain", "shipped"])
