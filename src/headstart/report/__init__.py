"""Pages and charts: of a run, of several seeds, of two runs compared, of an audit, and of exported files.

`exports` is imported at first use: a prediction needs no page.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["exports"])
