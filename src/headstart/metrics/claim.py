"""Which images a test accuracy holds for. It need not hold for new ones if test images resemble training images."""

from headstart.metrics.figures import Figures, SubsetFigures

# If at most this share of the test images resemble training images, the accuracy can hold for new images.
FEW_KNOWN = 0.1
# Fewer images without a near-duplicate are too few for an accuracy.
FEWEST_NEW = 10


def known_images(figures: Figures) -> str:
    """Say why a test accuracy and its interval need not hold for new images: test images resemble training images.

    This is the only place that decides it. The interval stands if at most a tenth of the test images have a near-duplicate in
    training and the accuracy on the others lies within the interval; or if there was no audit.

    Args:
        figures: of a stage in `metrics.json`.

    Returns:
        "46 of 48 test images have a near-duplicate in training", or an empty string if the interval stands.
    """
    known, count, (low, high) = figures.get("near_duplicates_in_training", 0), figures["images"], figures["interval"]
    new = figures.get("without_near_duplicates")
    if (torn := figures.get("of_known_groups", 0)) > FEW_KNOWN * count:
        return f"{torn:,} of {count:,} test images are of groups that training has images of"
    if not known or (known <= FEW_KNOWN * count and new and low <= new["accuracy"] <= high):
        return ""
    share = f"{known:,} of {count:,} test images"
    if figures.get("images_alike"):
        return f"{share} resemble training images, as most images of this data set resemble each other"
    return f"{share} {'has' if known == 1 else 'have'} a near-duplicate in training"


def what_it_holds_for(figures: Figures) -> str:
    """Say, if `known_images` says something, which images the accuracy holds for and what to do, in a few sentences."""
    if figures.get("of_known_groups", 0) > FEW_KNOWN * figures["images"]:
        return (
            "The figure holds for new images of these groups, not for new groups. The splits were given so: put each group into "
            "one split, or let new ones be drawn (--layout classes), and train again."
        )
    advice = (
        "Put all images of one video, patient or place into one of the folders train, val and test, and train again; or say with "
    )
    advice += "--group which images belong together."
    if "groups" in figures:  # they are whole already
        advice = (
            "Groups are whole, so these images are alike across groups: if that is not their nature, --group should join more."
        )
    if figures.get("images_alike"):
        return (
            f"If every image was taken by itself, the true figure lies with 95 % confidence {between(figures)}. If images come "
            f"in series, it holds for images of the same series, not for new ones. {advice}"
        )
    new = figures.get("without_near_duplicates")
    if new and new["images"] >= FEWEST_NEW:
        others = (
            f"On the other {new['images']:,} the accuracy is {percent(new['accuracy'])}, with 95 % confidence {between(new)}."
        )
    elif new:
        others = f"Only {new['images']} {'has' if new['images'] == 1 else 'have'} none: too few to tell."
    else:
        others = "None is left to measure on."
    return f"The figure holds for images like those, not for new ones. {others} {advice}"


def between(figures: Figures | SubsetFigures) -> str:
    """Return the 95 % interval as "between 92.6 % and 100.0 %"."""
    low, high = figures["interval"]
    return f"between {percent(low)} and {percent(high)}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
