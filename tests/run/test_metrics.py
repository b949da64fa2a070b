import numpy as np

from headstart.run.metrics import measure


def test_the_interval_is_wilsons():
    # 970 of 1,000: Wilson's interval is 95.75 to 97.89 %.
    labels = np.zeros(1000, int)
    logits = np.tile([5.0, 0.0], (1000, 1))
    logits[:30] = [0.0, 5.0]
    figures = measure(logits, labels, ("a", "b"))
    assert figures["accuracy"] == 0.97
    np.testing.assert_allclose(figures["interval"], [0.9575, 0.9789], atol=2e-4)
    assert figures["per_class"]["a"]["recall"] == 0.97


def test_a_class_that_never_occurs_gives_no_warning():
    figures = measure(np.eye(3), np.array([0, 1, 1]), ("a", "b", "c"))
    assert figures["per_class"]["c"]["support"] == 0
