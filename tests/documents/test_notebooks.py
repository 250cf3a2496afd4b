"""The notebooks run from top to bottom, on a small dataset for a few iterations, and show what they promise."""

import json

import pytest

pytest.importorskip("nbclient")

import run_notebooks

FRAMEWORKS = {"detection": "detectron2", "segmentation": "mmseg"}
PICTURES = 6  # data, loss, predictions, precision, one image, attention


def outputs(content):
    return [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(content):
    return [output for output in outputs(content) if any(kind.startswith("image/") for kind in output.get("data", {}))]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_notebook_runs_from_top_to_bottom_and_draws(name, tmp_path):
    pytest.importorskip(FRAMEWORKS[name])
    parameters = {"ITERATIONS": 6, "NUM_TRAIN": 8, "NUM_VAL": 4}
    content = run_notebooks.run(run_notebooks.NOTEBOOKS / f"{name}.ipynb", tmp_path, parameters)
    assert len(pictures(content)) == PICTURES
    assert [*(tmp_path / "notebook_output" / name).glob("*.pth")]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_what_is_stored_was_run_in_order_and_names_no_machine(name):
    text = (run_notebooks.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    content = run_notebooks.nbformat.reads(text, as_version=4)
    run_notebooks.nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures(content)) == PICTURES
    shown = json.dumps([o for o in outputs(content) if o.output_type == "stream"])
    assert "site-packages" not in shown and "/home" not in shown and "/tmp" not in shown
    assert "Traceback" not in text and len(text) < 1_000_000


def test_a_parameter_that_a_notebook_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a parameter must be a name that detection.ipynb assigns, got 'EPOCHS'"):
        run_notebooks.run(run_notebooks.NOTEBOOKS / "detection.ipynb", tmp_path, {"EPOCHS": 1})
