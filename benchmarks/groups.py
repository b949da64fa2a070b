"""How often 95 % intervals of an accuracy hold the true one where images come in groups, by simulation.

python -m benchmarks.groups                                     # half a minute
"""

from dataclasses import dataclass

import numpy as np
import tyro

from headstart.metrics.classification import interval_of


@dataclass(frozen=True)
class Options:
    """Simulate test splits of groups whose accuracies differ from each other."""

    groups: tuple[int, ...] = (4, 8, 20, 50)
    images: int = 12  # of a group, on average
    accuracy: tuple[float, ...] = (0.7, 0.9)
    correlation: tuple[float, ...] = (0.05, 0.3, 0.7)  # of right and wrong answers within a group
    repetitions: int = 1000


def main(options: Options) -> None:
    random = np.random.default_rng(0)
    print("| groups | accuracy | correlation within groups | interval of groups holds it | Wilson's for images holds it |")
    print("|---|---|---|---|---|")
    for number in options.groups:
        for accuracy in options.accuracy:
            for correlation in options.correlation:
                held = np.zeros(2)
                for _ in range(options.repetitions):
                    # A beta distribution of the groups' accuracies gives this correlation.
                    spread = (1 - correlation) / correlation
                    of_groups = random.beta(accuracy * spread, (1 - accuracy) * spread, number)
                    groups = np.repeat(np.arange(number), random.poisson(options.images - 1, number) + 1)
                    right = random.random(len(groups)) < of_groups[groups]
                    for method, (low, high) in enumerate((interval_of(right, groups), interval_of(right))):
                        held[method] += low <= accuracy <= high
                shares = " | ".join(f"{100 * share:.0f} %" for share in held / options.repetitions)
                print(f"| {number} | {100 * accuracy:.0f} % | {correlation:g} | {shares} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
