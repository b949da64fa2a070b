"""Labels that may be wrong: confident learning on a backbone's features."""

import warnings

import numpy as np
from joblib import parallel_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

FOLDS = 5
# Labels whose out-of-fold probability is above `PERHAPS` are never reported; those below `SURELY` may be strong suspects. With
# 5 % of CIFAR-10's labels flipped (ResNet-50 at 96 px, 81 % of the labels predicted), "surely" has a precision of 0.91 and a
# recall of 0.71, and "perhaps" 0.57 and 0.92. If few labels are wrong, most suspects are only hard images: a person decides.
SURELY, PERHAPS = 0.02, 0.1
# A model with less skill reports nothing (see `skill`). In the same experiment with fewer images, "surely" had a precision of
# 0.62 to 0.91 at skills from 0.66 on, and 0.27 to 0.33 at 0.61 and below.
LEAST_SKILL = 0.65
# scikit-learn's C times the number of images, so that the weight of the penalty against the mean loss is always the same.
STRENGTH = 500
# The result is a ranking, and more iterations hardly change it.
MOST_ITERATIONS = 100
# So many folds run at the same time, each with its own copy of the features.
AT_ONCE = 2


def out_of_fold_probabilities(features: np.ndarray, labels: np.ndarray, classes: int = 0) -> np.ndarray:
    """Predict the class of each image by logistic regression on other images (cross-validation).

    Args:
        features: float (N, C).
        labels: int (N,), of at least two classes, each with at least two images.
        classes: the number of classes; 0 for as many as occur.

    Returns:
        float (N, classes), each row sums to 1. The model that predicted a row was not trained on it.
    """
    present, places = np.unique(labels, return_inverse=True)
    # A class with fewer images than folds is missing in the test images of some folds, but in the training of none.
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(places).max())), shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH / len(labels), max_iter=MOST_ITERATIONS))
    # One core per fold: products with as few columns as there are classes gain nothing from a second core, and on a busy
    # machine the threads of one product wait for each other, which took up to nine times as long.
    with warnings.catch_warnings(), parallel_config("threading", n_jobs=AT_ONCE), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        predicted = cross_val_predict(model, features, places, cv=folds, method="predict_proba")
    probabilities = np.zeros((len(labels), classes or len(present)))
    probabilities[:, present if classes else slice(None)] = predicted
    return probabilities


def skill(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on a scale where 0 is that of always predicting the largest class, and 1 is perfect."""
    chance = np.bincount(labels).max() / len(labels)
    agreement = (probabilities.argmax(axis=1) == labels).mean()
    return float((agreement - chance) / (1 - chance)) if chance < 1 else 0.0


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank the labels that may be wrong by self-confidence: the least probable given label first.

    Suspects are the images that are predicted as another class and whose given label has a probability below `PERHAPS`. A
    suspect is sure if both prunings of confident learning choose it (Northcutt, Jiang and Chuang 2021, JAIR 70) and its
    given label has a probability below `SURELY`.

    Args:
        probabilities: float (N, classes), from models that were not trained on the image.
        labels: int (N,), the given labels.

    Returns:
        Rows of the suspects, int64 (M,); the suggested class of each, int64 (M,); whether each is sure, bool (M,).
    """
    given, suggested = probabilities[np.arange(len(labels)), labels], probabilities.argmax(axis=1)
    suspects = np.flatnonzero((suggested != labels) & (given < PERHAPS))
    suspects = suspects[np.argsort(given[suspects], kind="stable")]
    surely = pruned(probabilities, labels) & (given < SURELY)
    return suspects, suggested[suspects], surely[suspects]


def pruned(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which labels both prunings of confident learning choose, by class and by noise rate, bool (N,).

    A class is confidently predicted for an image if its probability reaches its mean over the images with that label. The
    confident joint counts images by given label and confident prediction. It estimates how many images with each label
    belong to each other class.
    """
    count, classes = probabilities.shape
    given, totals = probabilities[np.arange(count), labels], np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, given, minlength=classes)
    thresholds = np.divide(sums, totals, out=np.full(classes, np.inf), where=totals > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    sure = confident.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[sure], confident[sure].argmax(axis=1)), 1)
    joint *= (totals / np.maximum(joint.sum(axis=1), 1))[:, None]
    by_class, by_noise_rate = np.zeros(count, bool), np.zeros(count, bool)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        by_class[lowest(rows, given[rows], joint[label].sum() - joint[label, label])] = True
        for other in set(range(classes)) - {label}:
            by_noise_rate[lowest(rows, given[rows] - probabilities[rows, other], joint[label, other])] = True
    return by_class & by_noise_rate


def lowest(rows: np.ndarray, scores: np.ndarray, count: float) -> np.ndarray:
    """Return the `count` rows with the lowest scores."""
    return rows[np.argsort(scores, kind="stable")[: round(count)]]
