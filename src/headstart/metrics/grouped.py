"""What images tell that belong together in groups, such as those of one patient: less than as many independent ones."""

from functools import cache

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student


def effective_images(right: np.ndarray, groups: np.ndarray) -> float:
    """Return how many independent images tell as much of the accuracy on new groups as some images in groups do.

    Images of one group are right or wrong together, so their number is divided by the design effect: the variance of accuracy
    between groups (of a ratio, linearised; Rao and Scott 1992, Biometrics 48: 577-585) over that of independent images. It is
    divided further where the variance is estimated from few groups, by the squared quotient of Student's t and the normal
    quantile (Korn and Graubard 1998, Survey Methodology 24: 193-201; Dean and Pagano 2015, Journal of Survey Statistics and
    Methodology 3: 484-503, find Wilson's interval for this number among the best). If all answers are right, or all wrong,
    nothing tells how alike the images of a group are: then each group counts as one image.

    Of a single group nothing follows for others: the number is 0.

    Args:
        right: bool (N,), whether each image was classified correctly.
        groups: int (N,), which images belong together.
    """
    found, group = np.unique(groups, return_inverse=True)
    images, number, share = len(right), len(found), float(right.mean())
    if number < 2:
        return 0.0
    if 0 < share < 1:
        effect = max(1.0, error_between_groups(right, group) ** 2 / (share * (1 - share) / images))
    else:
        effect = images / number
    return images / effect * correction_for_few(number)


@cache
def correction_for_few(groups: int) -> float:
    """Return what the number of images is multiplied by where a variance is estimated from some groups; 0 of a single one."""
    return float(norm.ppf(0.975) / student.ppf(0.975, groups - 1)) ** 2 if groups > 1 else 0.0


def error_between_groups(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the standard error of the mean of some images' values, from how the groups differ; infinite for a single group.

    Args:
        values: float or bool (N,).
        groups: int (N,), 0 or more, which images belong together.
    """
    number, sums = np.count_nonzero(np.bincount(groups)), np.bincount(groups, values - values.mean())
    return float(np.sqrt(number / (number - 1) * np.square(sums).sum())) / len(values) if number > 1 else float("inf")
