from collections import Counter

import pytest
from PIL import Image

from headstart.data.walk import walk, walk_images
from headstart.errors import HeadstartError


@pytest.fixture
def tree(tmp_path):
    """Folders and files whose names sort in many ways, and one of each kind that is skipped."""
    for name in ("b.png", "a/1.png", "a/thumbs/1.png", "a.d/1.png", "a b/2.png", "B/x/y/1.jpg", ".hidden/1.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(("png", "jpg")):
            Image.new("RGB", (2, 2)).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("text")
    Image.new("RGB", (2, 2)).save(tmp_path / "no-ending", format="PNG")
    (tmp_path / "B" / "up").symlink_to(tmp_path)
    (tmp_path / "B" / "other").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "lost.png").symlink_to(tmp_path / "missing.png")
    return tmp_path


def test_images_are_found_one_by_one_as_they_are_found_together(tree):
    skipped: Counter[str] = Counter()
    found = list(walk_images(tree, skipped))
    folder = walk(tree)
    assert found == folder.all_images() == sorted(found)
    assert skipped == folder.all_skipped()
    assert skipped["folder of thumbnails"] == 2  # one through a link
    assert tree / "no-ending" in found


def test_nothing_is_read_before_it_is_asked_for(tree):
    images = walk_images(tree, Counter())
    first = next(images)
    (tree / "a.d" / "1.png").unlink()
    assert tree / "a.d" / "1.png" not in [first, *images]


def test_a_folder_that_is_missing_is_said(tmp_path):
    with pytest.raises(HeadstartError, match="cannot be read"):
        list(walk_images(tmp_path / "missing", Counter()))
