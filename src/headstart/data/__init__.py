"""From files to labelled arrays with splits.

`splits` and `builtin` need scikit-learn, which most commands do without, so they are imported at first use.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["builtin", "splits"])
