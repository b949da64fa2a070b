"""A trained network as a file for other programs, with the proof that it answers as the run does.

`exporter` needs Keras, so it is imported at first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["exporter"])
