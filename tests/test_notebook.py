from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "cifar10_image_classification.ipynb"
SOURCES = 'data, backbone, limit = "cifar10", "resnet50", 0'


def executed(folder: Path, data: str, backbone: str, limit: int) -> str:
    """Run the notebook from top to bottom in a folder, on other data and for a single epoch of fine-tuning; return its cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    changes = {SOURCES: f"data, backbone, limit = {data!r}, {backbone!r}, {limit}", "epochs=2,": "epochs=1, fewest_steps=1,"}
    for old, new in changes.items():
        cell = next(cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return str(notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """On the digits and the starter backbone, which every machine has; the committed one ran on CIFAR-10."""
    assert "fine_tuned" in executed(tmp_path, "digits", "starter", 200)


def test_the_committed_notebook_was_executed_on_cifar_10():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "a code cell was not executed"
    assert "airplane 6,000, automobile 6,000" in str(code)


def test_the_notebook_needs_nothing_but_headstart():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert [line for line in lines if line.startswith(("import ", "from "))] == ["import headstart as hs"]


@pytest.mark.slow
def test_the_notebook_runs_on_a_part_of_cifar_10(real_data, tmp_path):
    data, backbone = str(real_data / "cifar-10-batches-py"), str(real_data / "resnet50_imagenet.keras")
    assert "fine_tuned" in executed(tmp_path, data, backbone, 128)
