"""Headstart trains a pretrained backbone on your images in two stages, and reports honestly how good the result is.

import headstart as hs

run = hs.train("quick", data="photos/", out="runs/photos")
print(run.metrics["test"]["fine_tuned"]["accuracy"])
print(run.predict(["a.jpg", "b.png"]).labels)
"""

import lazy_loader

# The public names are listed in the stub beside this file. They are imported at first use, so `headstart --help` is fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
