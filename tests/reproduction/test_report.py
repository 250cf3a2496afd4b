"""`reproduce.py report` says how close runs came, of whatever they left behind."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("mmengine")

from reproduce import main
from reproduction.compare import SPREADS
from reproduction.report import draw_curves
from reproduction.run import Step
from resnest_backbones.model_zoo import METRICS, RECIPES, Measurement
from tests.reproduction import report_sample as sample
from tests.reproduction.report_sample import write_run, write_sample


def read(folder: Path) -> dict:
    """``report.json``, its recipes by name."""
    content = json.loads((folder / "report.json").read_text())
    return {**content, "recipes": {entry["name"]: entry for entry in content["recipes"]}}


def run_on(root: Path, *arguments: object) -> dict:
    """Report on ``root``; what ``report.json`` says."""
    assert main(["report", "--output-dir", str(root), *map(str, arguments)]) == 0
    return read(root / "report")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Runs of every state, and their report."""
    folder = tmp_path_factory.mktemp("reproduced")
    write_sample(folder)
    run_on(folder)
    return folder


@pytest.fixture
def content(root) -> dict:
    return read(root / "report")


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


def test_every_published_metric_has_a_usual_spread():
    for recipe in RECIPES.values():
        assert recipe.metrics.keys() <= SPREADS[recipe.dataset].keys(), recipe.name


def test_every_spread_says_where_it_comes_from_or_that_it_is_assumed(page, root):
    markdown = (root / "report" / "report.md").read_text()
    for spreads in SPREADS.values():
        assert spreads.keys() <= METRICS.keys()
        for spread in spreads.values():
            assert 0 < spread.points <= 1
            assert bool(spread.source) != spread.reason.startswith("assumed")
            assert spread.reason in page.text
            assert spread.reason.split(";")[0] in markdown
            assert spread.source in page.text


# Verdicts


@pytest.mark.parametrize(
    ("measured", "verdict", "difference"),
    [(42.33, "within", 0.0), (42.63, "within", 0.3), (42.64, "above", 0.31), (42.03, "within", -0.3),
     (42.02, "below", -0.31), (42.3349, "within", 0.0)],
)  # fmt: skip
def test_the_verdict_is_by_the_spread_to_both_sides(tmp_path, measured, verdict, difference):
    write_run(tmp_path, sample.WITHIN, metrics={"box_ap": measured})
    content = run_on(tmp_path)
    entry = content["recipes"][sample.WITHIN]
    assert entry["verdict"] == verdict
    assert entry["metrics"] == [
        {"metric": "box_ap", "measured": measured, "published": 42.33, "difference": difference, "spread": 0.3,
         "verdict": verdict, "reason": ""}
    ]  # fmt: skip
    assert content["totals"][verdict] == 1


def test_one_metric_below_makes_the_recipe_below(content):
    entry = content["recipes"][sample.BELOW]
    assert [metric["verdict"] for metric in entry["metrics"]] == ["above", "below"]
    assert entry["verdict"] == "below"


def test_the_totals_count_every_recipe_once(content):
    totals = content["totals"]
    assert totals == {
        "recipes": 42, "run": 6, "finished": 4, "running": 1, "failed": 1, "smoke": 1, "smoke_failed": 0, "broken": 1,
        "not_run": 34, "within": 2, "below": 1, "above": 1,
    }  # fmt: skip
    assert totals["run"] + totals["smoke"] + totals["broken"] + totals["not_run"] == totals["recipes"]


@pytest.mark.parametrize("measured", [None, math.nan, math.inf, 10**400])
def test_a_metric_that_is_not_a_number_has_no_verdict(tmp_path, measured):
    write_run(tmp_path, sample.BELOW, metrics={"box_ap": measured, "mask_ap": 38.2})
    entry = run_on(tmp_path)["recipes"][sample.BELOW]
    assert [(metric["measured"], metric["verdict"], metric["reason"]) for metric in entry["metrics"]] == [
        (None, None, "not a number"),
        (38.2, "within", ""),
    ]
    assert entry["record"].count("box_ap") == 0


def test_a_metric_that_was_not_published_is_shown_without_a_verdict(tmp_path):
    write_run(tmp_path, sample.SMOKE, metrics={"miou": 40.5, "miou_multi_scale": 42.9})
    metrics = {metric["metric"]: metric for metric in run_on(tmp_path)["recipes"][sample.SMOKE]["metrics"]}
    assert metrics["miou"]["reason"] == "none published"
    assert metrics["miou_multi_scale"]["verdict"] == "within"
    assert metrics["pix_acc_multi_scale"]["reason"] == "not measured"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_recipe_that_did_not_finish_has_no_verdict(tmp_path, state):
    write_run(tmp_path, sample.WITHIN, state, metrics={"box_ap": 42.33})
    content = run_on(tmp_path)
    assert content["recipes"][sample.WITHIN]["metrics"][0]["reason"] == f"no verdict: {state}"
    assert content["recipes"][sample.WITHIN]["record"] == ""
    assert content["totals"]["within"] == 0
    assert content["totals"][state] == content["totals"]["run"] == 1


def test_a_run_with_other_settings_has_no_verdict_and_is_not_to_be_recorded(tmp_path):
    write_run(tmp_path, sample.WITHIN, metrics={"box_ap": 42.33}, settings=["SOLVER.MAX_ITER=100"])
    content = run_on(tmp_path)
    (metric,) = content["recipes"][sample.WITHIN]["metrics"]
    assert (metric["measured"], metric["verdict"], metric["reason"]) == (42.33, None, "no verdict: run with --set")
    assert content["recipes"][sample.WITHIN]["record"] == "" and content["totals"]["within"] == 0


def test_an_evaluated_checkpoint_is_compared_and_not_to_be_recorded_as_trained_here(tmp_path):
    write_run(tmp_path, sample.WITHIN, metrics={"box_ap": 42.33}, eval_only="model.pth")
    entry = run_on(tmp_path)["recipes"][sample.WITHIN]
    assert entry["verdict"] == "within" and entry["record"] == ""


def test_a_finished_recipe_without_metrics_is_said_to_have_none(tmp_path, capsys):
    write_run(tmp_path, sample.WITHIN)
    assert run_on(tmp_path)["recipes"][sample.WITHIN]["verdict"] is None
    assert "Finished without a metric to compare: 1." in capsys.readouterr().out


# Smoke runs


def test_a_smoke_run_is_marked_and_not_compared(root, content, page):
    entry = content["recipes"][sample.SMOKE]
    assert entry["smoke"] is True
    assert entry["verdict"] is None
    assert entry["record"] == ""
    assert [(metric["measured"], metric["difference"], metric["verdict"]) for metric in entry["metrics"]] == [
        (1.23, None, None),
        (None, None, None),
    ]
    for text in (page.text, (root / "report" / "report.md").read_text()):
        assert text.count("SMOKE RUN, NOT A MEASUREMENT.") == 2  # at the top, and at the row
        assert "1.23" in text


def test_failed_smoke_runs_are_counted(tmp_path, capsys):
    write_run(tmp_path, sample.WITHIN, smoke=True)
    write_run(tmp_path, sample.BELOW, "failed", smoke=True, error="it broke")
    totals = run_on(tmp_path)["totals"]
    assert (totals["smoke"], totals["smoke_failed"], totals["failed"], totals["run"]) == (2, 1, 0, 0)
    out = capsys.readouterr().out
    assert out.startswith("0 of 42 recipes run: ")
    assert "smoke runs, which measure nothing: 2; 1 of them failed." in out
    assert "MEASURED" not in out


# All three files


def test_every_recipe_is_in_every_file(root, content, page):
    markdown = (root / "report" / "report.md").read_text()
    assert content["recipes"].keys() == RECIPES.keys()
    for name in RECIPES:
        assert name in page.text
        assert re.search(rf"\| `{re.escape(name)}` +\|", markdown)


def test_what_is_to_be_known_of_a_run_is_in_every_file(root, content, page):
    markdown = (root / "report" / "report.md").read_text()
    entry = content["recipes"][sample.WITHIN]
    assert entry["versions"] == {"python": "3.11.2", "torch": "2.8.0"}
    assert entry["steps"][0]["seconds"] == 43985.2
    facts = [
        entry["machine"],
        entry["command"],
        entry["started"],
        entry["ended"],
        entry["source"],
        entry["steps"][0]["command"],
    ]
    for fact in [*facts, "python 3.11.2, torch 2.8.0", "12.22 h, exit status 0"]:
        assert fact in markdown
        assert fact in page.text


def test_links_lead_to_what_is_there(root, content, page):
    folder = root / "report"
    markdown = (folder / "report.md").read_text()
    links = [*re.findall(r"\]\(([^)]*)\)", markdown), *(link for link in page.links if not link.startswith("data:"))]
    assert links.count(f"../{sample.FAILED}/log.txt") == 2
    for link in links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / unquote(link)).is_file(), link
    for entry in content["recipes"].values():
        for file in [*entry["metric_files"], *([entry["log"]] if entry["log"] else [])]:
            assert (folder / file).is_file()
    assert content["recipes"][sample.WITHIN]["metric_files"] == [f"../{sample.WITHIN}/train/metrics.json"]


def test_the_page_needs_nothing_but_itself(page, root):
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\(|@import|https?://", (root / "report" / "report.html").read_text())


def test_the_error_of_a_run_is_shown_as_it_is(root, content, page):
    assert content["recipes"][sample.FAILED]["error"] == sample.ERROR
    assert sample.ERROR in page.text
    assert "script" not in page.tags
    assert f"Error: `` {sample.ERROR} ``" in (root / "report" / "report.md").read_text()


def test_curves_are_drawn_of_each_training_that_left_some(page):
    images = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(images) == len(set(images)) == 5
    assert f"box AP from {40 - 20 * math.exp(-4999 / 15000):.4g} at iteration 4999 to " in page.text
    assert page.text.count("The training left no curves.") == 3  # of a failed run, a broken one, and one without files


def test_the_published_metric_is_a_level_in_the_drawing(root, content, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda axes, level, **options: drawn.append(level))
    draw_curves(content["recipes"][sample.BELOW], root / sample.BELOW)
    draw_curves(content["recipes"][sample.SMOKE], root / sample.SMOKE)  # is not compared
    assert drawn == [42.81, 38.14]


def test_values_that_are_not_finite_are_gaps_in_a_drawing(tmp_path):
    file = sample.write_detectron2(tmp_path, sample.WITHIN, range(5))
    with open(file, "a") as stream:
        stream.write('{"iteration": 5, "total_loss": NaN}\n{"iteration": 6, "total_loss": Infinity}\n')
    write_run(tmp_path, sample.WITHIN)
    run_on(tmp_path)
    assert "to inf at iteration 6" in Page(tmp_path / "report" / "report.html").text


def test_the_same_runs_give_the_same_report(root, tmp_path):
    before = {file.name: file.read_bytes() for file in (root / "report").iterdir()}
    assert before.keys() == {"report.md", "report.json", "report.html"}  # and no half-written file
    run_on(root)
    assert {file.name: file.read_bytes() for file in (root / "report").iterdir()} == before


def test_the_line_to_record_a_run_is_python_that_gives_its_measurement(tmp_path, capsys):
    write_run(tmp_path, sample.BELOW, metrics={"box_ap": 43.251, "mask_ap": 37.6})
    line = run_on(tmp_path)["recipes"][sample.BELOW]["record"]
    assert f"    {line}\n" in capsys.readouterr().out
    made = eval("{" + line + "}", {"Measurement": Measurement})
    command = f"python tools/reproduce.py run {sample.BELOW} --num-gpus 8"
    metrics = {"box_ap": 43.25, "mask_ap": 37.6}
    assert made == {sample.BELOW: Measurement(sample.BELOW, metrics, "8 x NVIDIA A100", "2026-01-01", command)}


# What is asked for


def test_recipes_can_be_chosen_and_the_report_put_elsewhere(root, tmp_path, capsys):
    content = main(
        ["report", "mask_rcnn_*", sample.SMOKE, "--output-dir", str(root), "--to", str(tmp_path / "a" / "b")]
    )
    assert content == 0 and capsys.readouterr().out.startswith("1 of 5 recipes run: 0 within")
    found = read(tmp_path / "a" / "b")["recipes"]
    baselines = ["mask_rcnn_resnet50_fpn_1x", "mask_rcnn_resnet101_fpn_1x"]
    assert list(found) == [*baselines, sample.BELOW, sample.BROKEN, sample.SMOKE]
    assert (tmp_path / "a" / "b" / found[sample.BELOW]["log"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output-dir", "{root}/none"], "--output-dir must be a folder that recipes were run in, got "),
        (["yolo", "--output-dir", "{root}"], "got 'yolo'; the nearest is "),
        (["--output-dir", "{root}", "--to", "{root}/" + sample.WITHIN + "/log.txt"], "log.txt"),
        (["mask_rcnn_resnet50_fpn_1x", "--output-dir", "{root}"], "mask_rcnn_resnet50_fpn_1x was run in"),
        (["--output-dir", "{empty}"], "no recipe was run in"),
    ],
)
def test_a_wrong_command_ends_in_one_line(root, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["report", *(word.format(root=root, empty=tmp_path) for word in arguments)])
    error = stopped.value.code
    assert error.startswith("reproduce.py report: error: ") and message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


# What is broken


def broken(**changes) -> bytes:
    fields = {
        "recipe": sample.WITHIN, "state": "finished", "smoke": False, "command": "c", "machine": "m", "versions": {},
        "started": "s", "ended": "e", "error": "", "metrics": {"box_ap": 42.33}, "steps": [],
        "settings": [], "eval_only": "",
    }  # fmt: skip
    return json.dumps({**fields, **changes}).encode()


def test_the_run_that_the_broken_ones_are_made_of_is_whole(tmp_path):
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "run.json").write_bytes(broken())
    assert run_on(tmp_path)["recipes"][sample.WITHIN]["verdict"] == "within"


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[]", b"\xff\xfe", b"[" * 100000,
        broken(recipe=sample.BELOW), broken(state="done"), broken(steps=None), broken(steps=[{"name": "train"}]),
        broken(metrics=[1]), broken(metrics={"box_ap": "42"}), broken(metrics={"box_ap": True}),
        broken(metrics={"ap": 1.0}), broken(versions="3"), broken(error=None), broken(smoke="no"), broken(extra=1),
        broken(steps=[{"name": "train", "command": "c", "seconds": "long", "status": 0}]),
    ],
)  # fmt: skip
def test_a_broken_run_is_named_and_the_others_are_reported(tmp_path, content, capsys):
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "run.json").write_bytes(content)
    write_run(tmp_path, sample.ABOVE, metrics={"box_ap": 46.02})
    found = run_on(tmp_path)
    assert found["totals"]["broken"] == 1
    entry = found["recipes"][sample.WITHIN]
    assert (entry["state"], entry["verdict"]) == ("broken", None)
    assert len(entry["problems"]) == 1
    assert found["recipes"][sample.ABOVE]["verdict"] == "above"
    assert f"problem: {sample.WITHIN}: " in capsys.readouterr().out
    assert f'id="{sample.WITHIN}"' in (tmp_path / "report" / "report.html").read_text()


def test_folders_of_unknown_recipes_and_without_a_result_are_named(tmp_path, capsys):
    write_run(tmp_path, "yolo_resnest50")
    (tmp_path / sample.BELOW).mkdir()
    (tmp_path / sample.BELOW / "log.txt").write_text("")
    (tmp_path / sample.ABOVE).mkdir()  # empty: nothing was begun
    content = run_on(tmp_path)
    assert content["problems"] == [f"{tmp_path / 'yolo_resnest50'} holds the run of an unknown recipe"]
    assert content["recipes"][sample.BELOW]["problems"] == [f"{tmp_path / sample.BELOW} holds files but no run.json"]
    assert content["recipes"][sample.ABOVE]["problems"] == []
    assert content["totals"]["not_run"] == 42
    assert capsys.readouterr().out.count("problem: ") == 2


def test_a_killed_run_is_reported_with_what_it_wrote(content, page):
    assert content["recipes"][sample.RUNNING]["state"] == "running"
    assert "at iteration 19999" in page.text


def test_odd_texts_break_no_file(tmp_path):
    odd = "a|b\n`c` ```d``` </style><b> \ud800 \0 é"
    steps = [Step(odd, odd, math.nan, 0)]
    write_run(tmp_path, sample.WITHIN, machine=odd, command=odd, error=odd, versions={odd: odd}, steps=steps, ended=odd)
    assert run_on(tmp_path)["recipes"][sample.WITHIN]["machine"] == odd
    text = (tmp_path / "report" / "report.html").read_text()
    assert text.count("</style>") == 1
    assert text.count("&lt;/style&gt;&lt;b&gt;") == 8  # machine, command, error, two in versions and the step, ended
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "- machine: ```` a|b `c` ```d``` </style><b> ? \0 é ````" in markdown
