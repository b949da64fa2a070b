"""From files to labelled arrays with splits.

`splits` and `builtin` start scikit-learn, which most commands do without: they are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=["builtin", "splits"])
