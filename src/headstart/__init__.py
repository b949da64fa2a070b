"""Headstart: a pretrained backbone learns your images in two stages, and says truly how well.

import headstart as hs

run = hs.train("quick", data="photos/", out="runs/photos")
print(run.metrics["test"]["fine_tuned"]["accuracy"])
print(run.predict(["a.jpg", "b.png"]).labels)
"""

import lazy_loader

# The public names, from the stub beside this file; loaded at first use, so that `headstart --help` answers at once.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
