from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "cifar10_image_classification.ipynb"


def executed(folder: Path) -> str:
    """Run the notebook from top to bottom in a folder, fine-tuning for a single epoch, and return its cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    options = 'out="runs/notebook",'
    cell = next(cell for cell in notebook.cells if options in cell.source)
    cell.source = cell.source.replace(options, options + " fewest_steps=1,")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return str(notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """On the digits and the starter backbone, which every machine has; the committed one ran on CIFAR-10."""
    monkeypatch.setenv("HEADSTART_DATA", "digits")
    monkeypatch.setenv("HEADSTART_BACKBONE", "starter")
    monkeypatch.setenv("HEADSTART_LIMIT", "200")
    assert "fine_tuned" in executed(tmp_path)


def test_the_committed_notebook_was_executed_on_cifar_10():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "a code cell was not executed"
    assert "'airplane', 'automobile'" in str(code)


@pytest.mark.slow
@pytest.mark.xdist_group("real data")
def test_the_notebook_runs_on_a_part_of_cifar_10(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA", str(real_data / "cifar-10-batches-py"))
    monkeypatch.setenv("HEADSTART_BACKBONE", str(real_data / "resnet50_imagenet.keras"))
    monkeypatch.setenv("HEADSTART_LIMIT", "128")
    assert "fine_tuned" in executed(tmp_path)
