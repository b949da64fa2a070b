"""What was found of mirror images, in words."""

from typing import Any


def mirror_in_words(found: dict[str, Any]) -> str:
    """Say in a sentence what `headstart.audit.mirror.judge` found."""
    both = (
        f"{100 * found['accuracy']:.0f} % of {found['images']:,} images are named right, {100 * found['mirrored_accuracy']:.0f} %"
    )
    if not found["contradicts"]:
        return f"{both} of their mirror images"
    swapped = "; {!r} and {!r} become each other".format(*found["swapped"]) if "swapped" in found else ""
    return f"mirror images contradict the labels: {both} of their mirror images{swapped}"
