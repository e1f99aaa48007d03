"""The notebook, run in a kernel without a screen: every result shows itself as plain HTML."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "results.ipynb"
SHOWN = {
    "gaps": '<td style="text-align:left">&emsp;+ amortization</td>',
    "gaps.verdict()": "<ul><li>with this decoder fixed",
    "gaps.steps": ">amortization</td>",
    "gaps.amortization": ">amortization</td>",
    "gaps.fits": "<th>converged</th>",
    "er.compare(after, before)": "6 paired</td>",
}  # of each cell's last line: what its HTML holds


def outputs(notebook: nbformat.NotebookNode) -> dict[str, list[nbformat.NotebookNode]]:
    """What each cell of code shows, by its last line."""
    return {cell.source.splitlines()[-1]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.filterwarnings("default")  # of the kernel's own libraries
def test_the_notebook_runs_and_shows_tables() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = outputs(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace("[:30]", "[:6]").replace(
            "decompose(model, q, x)", 'decompose(model, q, x, "quick")'
        )
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = outputs(notebook)
    assert not [one for each in shown.values() for one in each if one.output_type == "stream"]
    for line, words in SHOWN.items():
        (output,) = shown[line]
        assert words in output.data["text/html"]
        assert output.data["text/plain"]
        (before,) = kept[line]  # as it lies in the repository, for whoever reads it there
        assert before.data.keys() == output.data.keys()
