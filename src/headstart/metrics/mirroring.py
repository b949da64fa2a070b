"""The finding about mirror images, in words."""

from typing import Any


def mirror_in_words(found: dict[str, Any]) -> str:
    """Return the finding of `headstart.audit.mirror.judge` as a sentence."""
    plain, mirrored = 100 * found["accuracy"], 100 * found["mirrored_accuracy"]
    both = f"{plain:.0f} % of {found['images']:,} images are classified correctly, {mirrored:.0f} %"
    if not found["contradicts"]:
        return f"{both} of their mirror images"
    swapped = "; {!r} and {!r} become each other".format(*found["swapped"]) if "swapped" in found else ""
    return f"mirror images contradict the labels: {both} of their mirror images{swapped}"
