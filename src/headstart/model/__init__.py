"""The network: backbones, preprocessing, augmentation, head, and the one place that joins them.

`saved` needs Keras, and is loaded at its first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["saved"])
