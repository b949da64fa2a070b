"""The network: backbones, preprocessing, augmentation, head, and the one place that joins them.

`network` and `saved` need Keras, and `hub` NumPy to read files: they are loaded at their first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["hub", "network", "saved"])
