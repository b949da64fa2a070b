"""What a run's report says of exported files."""

import re
from typing import Any

from headstart.export.formats import FORMATS, RECORDS, Export
from headstart.record.folder import RunFolder
from headstart.report.pages import Number, environment, p_value, percent
from headstart.system.files import written_whole
from headstart.system.reading import read_json

# Between these two, the report of a run has its exports; reports of older versions have no such place.
PLACE = re.compile("(<!-- exported files -->).*(<!-- end of exported files -->)", re.DOTALL)


def add_to_report(run: RunFolder) -> None:
    """Write the exports in a run's folder into its report, instead of those that it had.

    Raises:
        HeadstartError: a record of an export is damaged, or the report cannot be written.
    """
    file = run.path / "report.html"
    if not file.is_file():
        return
    exports = [read_json(one, Export) for one in sorted((run.path / RECORDS).glob("*.json"))]
    text = environment().get_template("exports.html.j2").render(rows=[row(one) for one in exports], notes=notes(exports))
    page = file.read_text(encoding="utf-8")
    with written_whole(file) as partial:
        partial.write_text(PLACE.sub(lambda match: f"{match[1]}{text}{match[2]}", page), encoding="utf-8")


def row(one: Export) -> list[Any]:
    """Return a line of the table: an exported file and its proof."""
    proof, size = one["proof"], sum(one["files"].values())
    test, paired = proof["test"], proof["against_run"]
    return [
        FORMATS[one["format"]].name,
        one["precision"],
        Number(size, f"{size / 1e6:.1f} MB"),
        Number(test["equal_decisions"], f"{percent(test['equal_decisions'], 2)} of {test['images']:,}"),
        Number(test["largest_difference"], f"{test['largest_difference']:.2g}"),
        Number(proof["accuracy"], f"{percent(proof['accuracy'], 2)}"),
        f"{paired['only_file_right']:.0f} won, {paired['only_run_right']:.0f} lost, {p_value(paired['p_value'])}",
        Number(proof["images_per_second"], f"{proof['images_per_second']:,.0f}"),
        Number(proof["images_per_second_of_run"], f"{proof['images_per_second_of_run']:,.0f}"),
    ]


def notes(exports: list[Export]) -> list[str]:
    """Return what int8 cost on the validation split, a sentence for each file."""
    return [
        f"{FORMATS[one['format']].name} in int8: {percent(loss['accuracy'], 2)} of {loss['images']:,.0f} validation images, and "
        f"{percent(loss['accuracy_of_run'], 2)} by the run."
        for one in exports
        if (loss := one["proof"]["validation"])
    ]
