import pytest

from headstart.training.fit import kept_row


def rows(*accuracies: float, loss: float = 0.5) -> list[dict]:
    return [{"epoch": epoch, "val_accuracy": value, "val_loss": loss} for epoch, value in enumerate(accuracies, start=1)]


@pytest.mark.parametrize(
    ("accuracies", "images", "kept"),
    [
        ((0.8, 0.9, 0.92, 0.915), 1000, 4),  # 0.5 points behind, where a standard error is 0.86
        ((0.8, 0.9, 0.92, 0.915), 10_000, 3),  # where it is 0.27
        ((0.8, 0.92, 0.9, 0.7), 1000, 2),
        ((0.9, 1.0, 1.0, 0.99), 100, 3),
        ((0.0, 0.0), 100, 2),
    ],
)
def test_the_last_epoch_that_only_chance_put_behind_the_best_is_kept(accuracies, images, kept):
    assert kept_row(rows(*accuracies), images)["epoch"] == kept


def test_an_epoch_must_be_better_than_what_the_stage_began_with():
    start = {"epoch": 0, "val_accuracy": 0.9, "val_loss": 0.5}
    assert kept_row(rows(0.8, 0.9), 1000, start) is start
    assert kept_row(rows(0.8, 0.9, loss=0.4), 1000, start)["epoch"] == 2
    assert kept_row(rows(0.901, 0.9), 1000, start)["epoch"] == 1


def test_no_epochs_keep_nothing():
    assert kept_row([], 1000) is None
