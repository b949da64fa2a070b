"""Headstart: a pretrained backbone learns your images in two stages, and says truly how well.

import headstart as hs

run = hs.train(hs.recipe("quick", data="photos/", out="runs/photos"))
print(run.metrics["test"]["fine_tuned"]["accuracy"])
print(run.predict(["a.jpg", "b.png"]).labels)
"""

import importlib
from typing import Any

# Public names and their modules; imported at first use, so that `headstart --help` answers at once.
_PUBLIC = {
    "Comparison": "headstart.report.compare",
    "Config": "headstart.config",
    "Dataset": "headstart.data.dataset",
    "Explanations": "headstart.inference.explain",
    "HeadstartError": "headstart.errors",
    "Predictions": "headstart.inference.predict",
    "Run": "headstart.record.folder",
    "audit_data": "headstart.audit.data",
    "load_data": "headstart.data.load",
    "load_for_evaluation": "headstart.inference.evaluate",
    "plan_table": "headstart.plan.budget",
    "recipe": "headstart.recipes",
    "resume": "headstart.trainer",
    "train": "headstart.trainer",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Explanations", "Predictions", "audit_data", "load_for_evaluation", "plan_table", "resume", "train"):
        from headstart.system.backend import load_keras

        load_keras()  # first, so that the backend starts without its chatter
    return getattr(importlib.import_module(_PUBLIC[name]), "table" if name == "plan_table" else name)
