"""Files of runs by an older Headstart, with the names that today's have."""

from typing import Any

# Until version 0.1 an image was a picture, a split a part, and a near-duplicate a twin.
RENAMED = {
    "pictures": "images", "picture_shape": "image_shape", "pictures_by_class": "images_by_class", "parts": "splits",
    "part": "split", "accuracy_without_twins": "accuracy_without_near_duplicates",
}  # fmt: skip
# What lies below these is named by classes, which may be called anything.
BY_CLASS = ("per_class", "pictures_by_class", "images_by_class", "classes")


def upgraded(content: Any) -> Any:
    """Return the content of a run's JSON file with today's names; of today's files, the content itself."""
    if isinstance(content, list):
        return [upgraded(item) for item in content]
    if not isinstance(content, dict):
        return content
    return {RENAMED.get(name, name): value if name in BY_CLASS else upgraded(value) for name, value in content.items()}
