"""`reproduce.py report` says how close runs came, of whatever they left behind."""

import argparse
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from reproduction import report
from reproduction.results import StepResult
from reproduction.spread import SPREADS
from resnest_backbones.model_zoo import METRICS, RECIPES, Measurement
from tests.reproduction import report_sample as sample
from tests.reproduction.report_sample import write_row, write_sample


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args([str(argument) for argument in arguments]))


def run_on(root: Path, *arguments: object) -> dict:
    """Report on ``root``; what ``report.json`` says, rows by name."""
    assert run("--output-dir", root, *arguments) == 0
    content = json.loads((root / "report" / "report.json").read_text())
    content["rows"] = {row["name"]: row for row in content["rows"]}
    return content


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Rows of every state, and their report."""
    folder = tmp_path_factory.mktemp("reproduced")
    write_sample(folder)
    run_on(folder)
    return folder


@pytest.fixture
def content(root) -> dict:
    content = json.loads((root / "report" / "report.json").read_text())
    content["rows"] = {row["name"]: row for row in content["rows"]}
    return content


class Page(HTMLParser):
    """What a page has: ids, links, tags and text."""

    def __init__(self, file: Path):
        super().__init__()
        self.ids, self.links, self.tags, self.text = [], [], set(), ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.links.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(root) -> Page:
    return Page(root / "report" / "report.html")


# The spread


def test_every_published_figure_has_a_usual_spread():
    for recipe in RECIPES.values():
        assert recipe.metrics.keys() <= SPREADS[recipe.dataset].keys(), recipe.name


def test_every_spread_says_where_it_comes_from_or_that_it_is_assumed(page, root):
    markdown = (root / "report" / "report.md").read_text()
    for spreads in SPREADS.values():
        assert spreads.keys() <= METRICS.keys()
        for spread in spreads.values():
            assert 0 < spread.points <= 1
            assert spread.is_assumed == spread.reason.startswith("assumed")
            assert spread.reason in page.text
            assert spread.reason in markdown
            assert spread.source in page.text


# Verdicts


@pytest.mark.parametrize(
    ("figure", "verdict", "difference"),
    [(42.33, "within", 0.0), (42.63, "within", 0.3), (42.64, "above", 0.31), (42.03, "within", -0.3),
     (42.02, "below", -0.31), (42.3349, "within", 0.0)],
)  # fmt: skip
def test_the_verdict_is_by_the_spread_to_both_sides(tmp_path, figure, verdict, difference):
    write_row(tmp_path, sample.WITHIN, figures={"box_ap": figure})
    content = run_on(tmp_path)
    row = content["rows"][sample.WITHIN]
    assert row["verdict"] == verdict
    assert row["metrics"] == [
        {"metric": "box_ap", "measured": figure, "published": 42.33, "difference": difference, "spread": 0.3,
         "verdict": verdict, "reason": ""}
    ]  # fmt: skip
    assert content["totals"][verdict] == 1


def test_one_figure_below_makes_the_row_below(content):
    row = content["rows"][sample.BELOW]
    assert [metric["verdict"] for metric in row["metrics"]] == ["above", "below"]
    assert row["verdict"] == "below"


def test_the_totals_count_every_row_once(content):
    totals = content["totals"]
    assert totals == {
        "rows": 42, "run": 6, "finished": 4, "running": 1, "failed": 1, "smoke": 1, "smoke_failed": 0, "broken": 1,
        "not_run": 34, "within": 2, "below": 1, "above": 1,
    }  # fmt: skip
    assert totals["run"] + totals["smoke"] + totals["broken"] + totals["not_run"] == totals["rows"]


@pytest.mark.parametrize("figure", [None, math.nan, math.inf, 10**400])
def test_a_figure_that_is_no_number_has_no_verdict(tmp_path, figure):
    write_row(tmp_path, sample.BELOW, figures={"box_ap": figure, "mask_ap": 38.2})
    row = run_on(tmp_path)["rows"][sample.BELOW]
    assert [(metric["measured"], metric["verdict"], metric["reason"]) for metric in row["metrics"]] == [
        (None, None, "not a number"),
        (38.2, "within", ""),
    ]
    assert row["record"].count("box_ap") == 0


def test_a_figure_that_was_not_published_is_shown_without_a_verdict(tmp_path):
    write_row(tmp_path, sample.SMOKE, figures={"miou": 40.5, "miou_multi_scale": 42.9})
    metrics = {metric["metric"]: metric for metric in run_on(tmp_path)["rows"][sample.SMOKE]["metrics"]}
    assert metrics["miou"]["reason"] == "none published"
    assert metrics["miou_multi_scale"]["verdict"] == "within"
    assert metrics["pix_acc_multi_scale"]["reason"] == "not measured"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_row_that_did_not_finish_has_no_verdict(tmp_path, state):
    write_row(tmp_path, sample.WITHIN, state, figures={"box_ap": 42.33})
    content = run_on(tmp_path)
    assert content["rows"][sample.WITHIN]["metrics"][0]["reason"] == f"no verdict: {state}"
    assert content["rows"][sample.WITHIN]["record"] == ""
    assert content["totals"]["within"] == 0
    assert content["totals"][state] == content["totals"]["run"] == 1


def test_a_run_with_other_settings_has_no_verdict_and_is_not_to_be_recorded(tmp_path):
    command = f"python tools/reproduce.py run {sample.WITHIN} --set SOLVER.MAX_ITER=100 --output-dir out"
    write_row(tmp_path, sample.WITHIN, figures={"box_ap": 42.33}, command=command)
    content = run_on(tmp_path)
    (metric,) = content["rows"][sample.WITHIN]["metrics"]
    assert (metric["measured"], metric["verdict"], metric["reason"]) == (42.33, None, "no verdict: run with --set")
    assert content["rows"][sample.WITHIN]["record"] == "" and content["totals"]["within"] == 0


def test_an_evaluated_checkpoint_is_compared_and_not_to_be_recorded_as_trained_here(tmp_path):
    command = f"python tools/reproduce.py run {sample.WITHIN} --eval-only model.pth --output-dir out"
    write_row(tmp_path, sample.WITHIN, figures={"box_ap": 42.33}, command=command)
    row = run_on(tmp_path)["rows"][sample.WITHIN]
    assert row["verdict"] == "within" and row["record"] == ""


def test_a_finished_row_without_figures_is_said_to_have_none(tmp_path, capsys):
    write_row(tmp_path, sample.WITHIN)
    assert run_on(tmp_path)["rows"][sample.WITHIN]["verdict"] is None
    assert "Finished without a figure to compare: 1." in capsys.readouterr().out


# Smoke runs


def test_a_smoke_run_is_marked_and_not_compared(root, content, page):
    row = content["rows"][sample.SMOKE]
    assert row["smoke"] is True
    assert row["verdict"] is None
    assert row["record"] == ""
    assert [(metric["measured"], metric["difference"], metric["verdict"]) for metric in row["metrics"]] == [
        (1.23, None, None),
        (None, None, None),
    ]
    for text in (page.text, (root / "report" / "report.md").read_text()):
        assert text.count("SMOKE RUN, NOT A MEASUREMENT.") == 2  # at the top, and at the row
        assert "1.23" in text


def test_failed_smoke_runs_are_counted(tmp_path, capsys):
    write_row(tmp_path, sample.WITHIN, smoke=True)
    write_row(tmp_path, sample.BELOW, "failed", smoke=True, error="it broke")
    totals = run_on(tmp_path)["totals"]
    assert (totals["smoke"], totals["smoke_failed"], totals["failed"], totals["run"]) == (2, 1, 0, 0)
    out = capsys.readouterr().out
    assert out.startswith("0 of 42 rows run: ")
    assert "smoke runs, which measure nothing: 2; 1 of them failed." in out
    assert "MEASURED" not in out


# All three files


def test_every_row_is_in_every_file(root, content, page):
    markdown = (root / "report" / "report.md").read_text()
    assert content["rows"].keys() == RECIPES.keys()
    for name in RECIPES:
        assert name in page.text
        assert f"| `{name}` |" in markdown


def test_what_is_to_be_known_of_a_run_is_in_every_file(root, content, page):
    markdown = (root / "report" / "report.md").read_text()
    row = content["rows"][sample.WITHIN]
    assert row["versions"] == {"python": "3.11.2", "torch": "2.8.0"}
    assert row["steps"][0]["seconds"] == 43985.2
    facts = [row["machine"], row["command"], row["started"], row["ended"], row["source"], row["steps"][0]["command"]]
    for fact in [*facts, "python 3.11.2, torch 2.8.0", "12 h 13 min, exit status 0"]:
        assert fact in markdown
        assert fact in page.text


def test_links_lead_to_what_is_there(root, content, page):
    folder = root / "report"
    markdown = (folder / "report.md").read_text()
    links = [*re.findall(r"\]\(([^)]*)\)", markdown), *page.links]
    assert links.count(f"../{sample.FAILED}/log.txt") == 2
    for link in links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / unquote(link)).is_file(), link
    for row in content["rows"].values():
        for file in [*row["metric_files"], *([row["log"]] if row["log"] else [])]:
            assert (folder / file).is_file()
    assert content["rows"][sample.WITHIN]["metric_files"] == [f"../{sample.WITHIN}/train/metrics.json"]


def test_the_page_needs_nothing_but_itself(page, root):
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\(|@import|https?://", (root / "report" / "report.html").read_text())


def test_the_error_of_a_run_is_shown_as_it_is(root, content, page):
    assert content["rows"][sample.FAILED]["error"] == sample.ERROR
    assert sample.ERROR in page.text
    assert "script" not in page.tags
    assert f"Error: `` {sample.ERROR} ``" in (root / "report" / "report.md").read_text()


def test_curves_are_drawn_with_the_published_level(page, root):
    text = (root / "report" / "report.html").read_text()
    charts = [identifier for identifier in page.ids if identifier.endswith(("-loss", "-box_ap", "-miou"))]
    rows = (sample.WITHIN, sample.BELOW, sample.RUNNING, sample.MMSEG, sample.SMOKE)
    assert [name for name in charts if name.endswith("-loss")] == sorted(
        (f"{row}-loss" for row in rows), key=lambda name: list(RECIPES).index(name.removesuffix("-loss"))
    )
    assert f"{sample.WITHIN}-box_ap" in charts
    assert "published box AP: 42.33" in page.text
    assert "published mIoU, one scale: 46.47" in page.text
    assert "at iteration 89999" in page.text
    assert text.count("The training left no curves.") == 2  # of the failed row and of that which wrote none


def test_values_that_cannot_be_drawn_are_counted(tmp_path):
    file = sample.write_detectron2(tmp_path, sample.WITHIN, range(5))
    with open(file, "a") as stream:
        stream.write('{"iteration": 5, "total_loss": NaN}\n')
    write_row(tmp_path, sample.WITHIN)
    run_on(tmp_path)
    assert "1 values are NaN or endless and not drawn." in Page(tmp_path / "report" / "report.html").text


def test_the_same_runs_give_the_same_report(root, tmp_path):
    before = {file.name: file.read_bytes() for file in (root / "report").iterdir()}
    assert before.keys() == {"report.md", "report.json", "report.html"}  # and no half-written file
    run_on(root)
    assert {file.name: file.read_bytes() for file in (root / "report").iterdir()} == before


def test_the_page_of_all_rows_is_small(tmp_path):
    for name, recipe in RECIPES.items():
        detectron2 = recipe.framework == "detectron2"
        file = tmp_path / name / "train" / ("metrics.json" if detectron2 else "1/vis_data/scalars.json")
        file.parent.mkdir(parents=True)
        step, loss, figure = ("iteration", "total_loss", "bbox/AP") if detectron2 else ("step", "loss", "mIoU")
        lines = [{step: i, loss: 1.23456789 / (i + 1), figure: 40.123456 - 1 / (i + 1)} for i in range(2000)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_row(tmp_path, name, figures={metric: 40.123456 for metric in recipe.metrics})
    run_on(tmp_path)
    assert (tmp_path / "report" / "report.html").stat().st_size < 3e6


def test_the_line_to_record_a_run_is_python_that_gives_its_measurement(root, content, capsys):
    run_on(root)
    line = content["rows"][sample.BELOW]["record"]
    assert f"    {line}\n" in capsys.readouterr().out
    made = eval("{" + line + "}", {"Measurement": Measurement})
    command = f"python tools/reproduce.py run {sample.BELOW} --num-gpus 8"
    figures = {"box_ap": 43.25, "mask_ap": 37.6}
    assert made == {sample.BELOW: Measurement(sample.BELOW, figures, "8 x NVIDIA A100", "2026-01-01", command)}


# What is asked for


def test_rows_can_be_chosen_and_the_report_put_elsewhere(root, tmp_path, capsys):
    assert run("mask_rcnn_*", sample.SMOKE, "--output-dir", root, "--to", tmp_path / "a" / "b") == 0
    content = json.loads((tmp_path / "a" / "b" / "report.json").read_text())
    assert [row["name"] for row in content["rows"]] == [
        "mask_rcnn_resnet50_fpn_1x", "mask_rcnn_resnet101_fpn_1x", sample.BELOW, sample.BROKEN, sample.SMOKE,
    ]  # fmt: skip
    assert capsys.readouterr().out.startswith("1 of 5 rows run: 0 within")
    assert (tmp_path / "a" / "b" / content["rows"][2]["log"]).is_file()


def test_an_empty_folder_is_an_error_of_one_line(tmp_path, capsys):
    assert run("--output-dir", tmp_path) == 1
    error = capsys.readouterr().err
    assert error == (
        f"reproduce report: error: no row was run in {tmp_path}; `run` and `smoke` write there, or give --output-dir\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_other_arguments_that_are_wrong_are_errors_of_one_line(root, tmp_path, capsys):
    assert run("--output-dir", tmp_path / "none") == 1
    assert run("yolo", "--output-dir", root) == 1
    (tmp_path / "file").write_text("")
    assert run("--output-dir", root, "--to", tmp_path / "file") == 1
    assert run("retinanet*", "--output-dir", root) == 1
    assert run("mask_rcnn_resnet50_fpn_1x", "--output-dir", root) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert "--output-dir must be a folder that rows were run in, got" in errors[0]
    assert "got 'yolo'" in errors[1]
    assert str(tmp_path / "file") in errors[2]
    assert f"mask_rcnn_resnet50_fpn_1x was not run in {root}" in errors[4]


# What is broken


def broken(**changes) -> bytes:
    fields = {
        "row": sample.WITHIN, "state": "finished", "smoke": False, "command": "c", "machine": "m", "versions": {},
        "started": "s", "ended": "e", "error": "", "figures": {"box_ap": 42.33}, "steps": [],
    }  # fmt: skip
    return json.dumps({**fields, **changes}).encode()


def test_the_row_that_the_broken_ones_are_made_of_is_whole(tmp_path):
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "row.json").write_bytes(broken())
    assert run_on(tmp_path)["rows"][sample.WITHIN]["verdict"] == "within"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000,
        broken(row=sample.BELOW), broken(state="done"), broken(steps=None), broken(steps=[{"name": "train"}]),
        broken(figures=[1]), broken(figures={"box_ap": "42"}), broken(figures={"box_ap": True}),
        broken(figures={"ap": 1.0}), broken(versions="3"), broken(error=None), broken(smoke="no"), broken(extra=1),
        broken(steps=[{"name": "train", "command": "c", "seconds": "long", "status": 0}]),
        broken(machine=["m"]), broken(ended=5),
    ],
)  # fmt: skip
def test_a_broken_row_is_named_and_the_others_are_reported(tmp_path, content, capsys):
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "row.json").write_bytes(content)
    write_row(tmp_path, sample.ABOVE, figures={"box_ap": 46.02})
    found = run_on(tmp_path)
    assert found["totals"]["broken"] == 1
    row = found["rows"][sample.WITHIN]
    assert (row["state"], row["verdict"]) == ("broken", None)
    assert len(row["problems"]) == 1
    assert found["rows"][sample.ABOVE]["verdict"] == "above"
    assert f"problem: {sample.WITHIN}: " in capsys.readouterr().out
    assert f'id="{sample.WITHIN}"' in (tmp_path / "report" / "report.html").read_text()


def test_folders_of_unknown_rows_and_without_a_result_are_named(tmp_path, capsys):
    write_row(tmp_path, "yolo_resnest50")
    (tmp_path / sample.BELOW).mkdir()
    (tmp_path / sample.BELOW / "log.txt").write_text("")
    (tmp_path / sample.ABOVE).mkdir()  # empty: nothing was begun
    content = run_on(tmp_path)
    assert content["problems"] == [f"{tmp_path / 'yolo_resnest50'} was left by the run of a row that there is none of"]
    assert content["rows"][sample.BELOW]["problems"] == [f"{tmp_path / sample.BELOW} holds files but no row.json"]
    assert content["rows"][sample.ABOVE]["problems"] == []
    assert content["totals"]["not_run"] == 42
    assert capsys.readouterr().out.count("problem: ") == 2


def test_a_metric_file_that_cannot_be_read_is_a_problem_of_its_row(tmp_path):
    write_row(tmp_path, sample.WITHIN, figures={"box_ap": 42.33})
    (tmp_path / sample.WITHIN / "train" / "metrics.json").mkdir(parents=True)
    row = run_on(tmp_path)["rows"][sample.WITHIN]
    assert row["verdict"] == "within"
    assert "metrics.json" in row["problems"][0]


def test_a_killed_run_is_reported_with_what_it_wrote(root, content, page):
    row = content["rows"][sample.RUNNING]
    assert row["state"] == "running"
    assert row["problems"][0].startswith("1 line of the training's metric files cannot be read")
    assert "at iteration 19999" in page.text


def test_odd_texts_break_no_file(tmp_path):
    odd = "a|b\n`c` ```d``` </style><b> \ud800 \0 é"
    steps = (StepResult(odd, odd, math.nan, 0),)
    write_row(tmp_path, sample.WITHIN, machine=odd, command=odd, error=odd, versions={odd: odd}, steps=steps, ended=odd)
    assert run_on(tmp_path)["rows"][sample.WITHIN]["machine"] == odd
    text = (tmp_path / "report" / "report.html").read_text()
    assert text.count("</style>") == 1
    assert text.count("&lt;/style&gt;&lt;b&gt;") == 8  # machine, command, error, two in versions and the step, ended
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "- machine: ```` a|b `c` ```d``` </style><b> ? \0 é ````" in markdown
