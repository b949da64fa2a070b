"""What a training run leaves behind: a folder that says what was done, how well, and can be used."""

from headstart.run.folder import Run

__all__ = ["Run"]
