"""Read files of runs of older versions, which use other names."""

from typing import Any

# In the first version, an image was called a picture, a split a part, and a near-duplicate a twin.
RENAMED = {
    "pictures": "images", "picture_shape": "image_shape", "pictures_by_class": "images_by_class", "parts": "splits",
    "part": "split", "accuracy_without_twins": "accuracy_without_near_duplicates",
}  # fmt: skip
# The keys below these are names of classes, which may be anything, so they are not renamed.
BY_CLASS = ("per_class", "pictures_by_class", "images_by_class", "classes")


def upgraded(content: Any) -> Any:
    """Return the content of a run's JSON file with the present names. Present files are returned unchanged."""
    if isinstance(content, list):
        return [upgraded(item) for item in content]
    if not isinstance(content, dict):
        return content
    return {RENAMED.get(name, name): value if name in BY_CLASS else upgraded(value) for name, value in content.items()}
