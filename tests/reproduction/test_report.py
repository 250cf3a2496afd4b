"""`reproduce.py report` says how close runs came, of whatever they left behind."""

import json
import math
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("mmengine")

from reproduce import main
from reproduction.common import ALL
from reproduction.compare import SPREADS
from reproduction.report import embed_curves
from reproduction.run import Step
from resnest_backbones.model_zoo import METRICS, Measurement
from tests.helpers import error_of
from tests.reproduction import report_sample as sample
from tests.reproduction.report_sample import write_run, write_sample


def read(folder: Path) -> dict:
    """``report.json``, its recipes by name."""
    content = json.loads((folder / "report.json").read_text())
    return {**content, "recipes": {entry["name"]: entry for entry in content["recipes"]}}


def run_on(root: Path) -> dict:
    assert main(["report", "--output-dir", str(root)]) == 0
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


@pytest.fixture
def markdown(root) -> str:
    return (root / "report" / "report.md").read_text()


@pytest.fixture(scope="module")
def page(root) -> SimpleNamespace:
    """What the page has: ids, links and text."""
    source = (root / "report" / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:href|src)="([^"]*)"', source)
    text = unescape(re.sub(r"<[^>]*>", "", source.partition("<body>")[2]))
    return SimpleNamespace(source=source, ids=re.findall(r' id="([^"]*)"', source), links=links, text=text)


def test_every_published_metric_has_a_spread_with_its_source(page, markdown):
    assert all(recipe.metrics.keys() <= SPREADS[recipe.dataset].keys() for recipe in ALL.values())
    for spread in (spread for spreads in SPREADS.values() for spread in spreads.values()):
        assert 0 < spread.points <= 1
        assert bool(spread.source) != spread.reason.startswith("assumed")
        assert spread.reason in page.text and spread.source in page.text
        assert spread.reason in markdown


# Verdicts


@pytest.mark.parametrize(
    ("measured", "verdict", "difference"),
    [(42.63, "within", 0.3), (42.64, "above", 0.31), (42.03, "within", -0.3), (42.02, "below", -0.31),
     (42.3349, "within", 0.0)],
)  # fmt: skip
def test_the_verdict_is_by_the_spread_to_both_sides(tmp_path, measured, verdict, difference):
    write_run(tmp_path, sample.WITHIN, metrics={"box_ap": measured})
    content = run_on(tmp_path)
    entry = content["recipes"][sample.WITHIN]
    assert entry["verdict"] == verdict and content["totals"][verdict] == 1
    assert entry["metrics"] == [
        {"metric": "box_ap", "measured": measured, "published": 42.33, "difference": difference, "spread": 0.3,
         "verdict": verdict, "reason": ""}
    ]  # fmt: skip


def test_the_totals_count_every_recipe_once_and_one_metric_below_counts(content):
    assert content["totals"] == {
        "recipes": len(ALL), "run": 6, "finished": 4, "running": 1, "failed": 1, "smoke": 1, "smoke_failed": 0,
        "broken": 1, "not_run": len(ALL) - 8, "within": 2, "below": 1, "above": 1,
    }  # fmt: skip
    entry = content["recipes"][sample.BELOW]
    assert [metric["verdict"] for metric in entry["metrics"]] == ["above", "below"] and entry["verdict"] == "below"


@pytest.mark.parametrize("measured", [None, math.nan, 10**400])
def test_a_metric_that_is_not_a_number_has_no_verdict(tmp_path, measured):
    write_run(tmp_path, sample.BELOW, metrics={"box_ap": measured, "mask_ap": 38.2})
    entry = run_on(tmp_path)["recipes"][sample.BELOW]
    assert [(metric["measured"], metric["verdict"], metric["reason"]) for metric in entry["metrics"]] == [
        (None, None, "not a number"),
        (38.2, "within", ""),
    ]
    assert "box_ap" not in entry["record"]


def test_runs_that_do_not_measure_the_recipe_have_no_verdict_and_are_not_recorded(tmp_path, capsys):
    finished = {"box_ap": 42.33}
    write_run(tmp_path, sample.WITHIN, metrics=finished, settings=["SOLVER.MAX_ITER=100"])
    write_run(tmp_path, sample.RUNNING, "running", metrics={"box_ap": 50.0})
    write_run(tmp_path, sample.FAILED, "failed", metrics=finished)
    write_run(tmp_path, sample.SMOKE, metrics={"miou": 40.5, "miou_multi_scale": 42.9})
    write_run(tmp_path, sample.BELOW, "failed", smoke=True)
    write_run(tmp_path, sample.ABOVE)
    write_run(tmp_path, sample.MMSEG, metrics={"miou": 46.1}, eval_only="model.pth")  # is compared
    content = run_on(tmp_path)
    entries = content["recipes"]
    reasons = {
        name: {m["metric"]: (m["reason"], m["verdict"]) for m in entry["metrics"]} for name, entry in entries.items()
    }
    assert reasons[sample.WITHIN]["box_ap"] == ("no verdict: run with --set", None)
    assert reasons[sample.RUNNING]["box_ap"] == ("no verdict: running", None)
    assert reasons[sample.FAILED]["box_ap"] == ("no verdict: failed", None)
    assert reasons[sample.ABOVE]["box_ap"] == ("not measured", None)
    assert entries[sample.MMSEG]["metrics"][0]["verdict"] is not None
    assert reasons[sample.SMOKE] == {
        "miou": ("none published", None), "miou_multi_scale": ("", "within"),
        "pix_acc_multi_scale": ("not measured", None),
    }  # fmt: skip
    assert [name for name, entry in entries.items() if entry["record"]] == [sample.SMOKE]
    totals = content["totals"]
    assert (totals["run"], totals["running"], totals["failed"], totals["finished"]) == (6, 1, 1, 4)
    assert (totals["smoke"], totals["smoke_failed"]) == (1, 1)
    out = capsys.readouterr().out
    assert "Finished without a metric to compare: 2." in out
    assert "smoke runs, which measure nothing: 1; 1 of them failed." in out


def test_the_published_file_of_a_network_is_compared_and_recorded(tmp_path, capsys):
    write_run(tmp_path, "resnest50", metrics={"top1": 81.0}, eval_only="cache/resnest50-528c19ca.pth")
    write_run(tmp_path, "resnest101", metrics={"top1": 80.1}, eval_only="own.pth")
    write_run(tmp_path, "resnest14", metrics={"top1": 75.8})
    content = run_on(tmp_path)
    entries = {name: content["recipes"][name] for name in ("resnest50", "resnest101", "resnest14")}
    assert [entry["verdict"] for entry in entries.values()] == ["within", "below", "within"]
    assert [entry["published_file"] for entry in entries.values()] == [True, False, False]
    assert [name for name, entry in entries.items() if entry["record"]] == ["resnest50", "resnest14"]
    assert '"resnest50": Measurement("resnest50", {"top1": 81.0}, ' in capsys.readouterr().out


def test_a_smoke_run_is_marked_and_not_compared(content, page, markdown):
    entry = content["recipes"][sample.SMOKE]
    assert (entry["smoke"], entry["verdict"], entry["record"]) == (True, None, "")
    assert [(metric["measured"], metric["difference"], metric["verdict"]) for metric in entry["metrics"]] == [
        (1.23, None, None),
        (None, None, None),
    ]
    for text in (page.text, markdown):
        assert text.count("SMOKE RUN, NOT A MEASUREMENT.") == 2  # at the top, and at the recipe
        assert "1.23" in text


# All three files


def test_every_recipe_and_what_is_to_be_known_of_a_run_are_in_every_file(content, page, markdown):
    assert content["recipes"].keys() == ALL.keys()
    for name in ALL:
        assert name in page.text and re.search(rf"\| `{re.escape(name)}` +\|", markdown)
    entry = content["recipes"][sample.WITHIN]
    assert entry["versions"] == {"python": "3.11.2", "torch": "2.8.0"} and entry["steps"][0]["seconds"] == 43985.2
    facts = [entry[key] for key in ("machine", "command", "started", "ended", "source")]
    for fact in [*facts, entry["steps"][0]["command"], "python 3.11.2, torch 2.8.0", "12.22 h, exit status 0"]:
        assert fact in markdown and fact in page.text


def test_links_lead_to_what_is_there_and_the_page_needs_nothing_but_itself(root, content, page, markdown):
    folder = root / "report"
    links = [*re.findall(r"\]\(([^)]*)\)", markdown), *(link for link in page.links if not link.startswith("data:"))]
    assert links.count(f"../{sample.FAILED}/log.txt") == 2
    for link in links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / unquote(link)).is_file(), link
    for entry in content["recipes"].values():
        assert all((folder / file).is_file() for file in [*entry["metric_files"], entry["log"] or "report.md"])
    assert content["recipes"][sample.WITHIN]["metric_files"] == [f"../{sample.WITHIN}/train/metrics.json"]
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\(|@import|https?://|<script|<link|<iframe|<object", page.source)


def test_the_error_of_a_run_is_shown_as_it_is(content, page, markdown):
    assert content["recipes"][sample.FAILED]["error"] == sample.ERROR
    assert sample.ERROR in page.text and f"\n    error: {sample.ERROR}\n" in markdown


def test_curves_are_drawn_of_each_training_that_left_some(root, content, page, monkeypatch):
    images = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(images) == len(set(images)) == 5
    assert f"box AP from {40 - 20 * math.exp(-4999 / 15000):.4g} at iteration 4999 to " in page.text
    assert page.text.count("The training left no curves.") == 3  # of a failed run, a broken one, and one without files
    assert content["recipes"][sample.RUNNING]["state"] == "running" and "at iteration 19999" in page.text
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda axes, level, **options: drawn.append(level))
    embed_curves(content["recipes"][sample.BELOW], root / sample.BELOW)
    embed_curves(content["recipes"][sample.SMOKE], root / sample.SMOKE)  # is not compared
    assert drawn == [42.81, 38.14]


def test_the_line_to_record_a_run_is_python_that_gives_its_measurement(tmp_path, capsys):
    write_run(tmp_path, sample.BELOW, metrics={"box_ap": 43.251, "mask_ap": 37.6})
    line = run_on(tmp_path)["recipes"][sample.BELOW]["record"]
    assert f"    {line}\n" in capsys.readouterr().out
    made = eval("{" + line + "}", {"Measurement": Measurement})
    command = f"python tools/reproduce.py run {sample.BELOW} --num-gpus 8"
    metrics = {"box_ap": 43.25, "mask_ap": 37.6}
    assert metrics.keys() <= METRICS.keys()
    assert made == {sample.BELOW: Measurement(sample.BELOW, metrics, "8 x NVIDIA A100", "2026-01-01", command)}


# What is asked for


def test_recipes_can_be_chosen_and_the_report_put_elsewhere(root, tmp_path, capsys):
    to = tmp_path / "a" / "b"
    assert main(["report", "mask_rcnn_*_1x", sample.SMOKE, "--output-dir", str(root), "--to", str(to)]) == 0
    assert capsys.readouterr().out.startswith("1 of 5 recipes run: 0 within")
    found = read(to)["recipes"]
    baselines = ["mask_rcnn_resnet50_fpn_1x", "mask_rcnn_resnet101_fpn_1x"]
    assert list(found) == [*baselines, sample.BELOW, sample.BROKEN, sample.SMOKE]
    assert (to / found[sample.BELOW]["log"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output-dir", "{root}/none"], "--output-dir must be a folder that recipes were run in, got "),
        (["--output-dir", "{root}", "--to", "{root}/" + sample.WITHIN + "/log.txt"], "log.txt"),
        (["mask_rcnn_resnet50_fpn_1x", "--output-dir", "{root}"], "mask_rcnn_resnet50_fpn_1x was run in"),
    ],
)
def test_a_wrong_command_ends_in_one_line(root, arguments, message):
    assert message in error_of(main, "report", *(word.format(root=root) for word in arguments))


# What is broken


def broken(**changes) -> bytes:
    fields = {
        "recipe": sample.WITHIN, "state": "finished", "smoke": False, "command": "c", "machine": "m", "versions": {},
        "started": "s", "ended": "e", "error": "", "metrics": {"box_ap": 42.33}, "steps": [],
        "settings": [], "eval_only": "",
    }  # fmt: skip
    return json.dumps({**fields, **changes}).encode()


def test_the_run_that_the_next_test_breaks_is_whole(tmp_path):
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "run.json").write_bytes(broken())
    assert run_on(tmp_path)["recipes"][sample.WITHIN]["state"] == "finished"


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"\xff\xfe", b"[" * 100000,
        broken(recipe=sample.BELOW), broken(state="done"), broken(steps=[{"name": "train"}]),
        broken(metrics={"box_ap": True}), broken(metrics={"ap": 1.0}), broken(versions="3"), broken(extra=1),
    ],
)  # fmt: skip
def test_a_broken_run_is_named_and_the_others_are_reported(tmp_path, content, capsys):
    write_run(tmp_path, sample.ABOVE, metrics={"box_ap": 46.02})
    (tmp_path / sample.WITHIN).mkdir()
    (tmp_path / sample.WITHIN / "run.json").write_bytes(content)
    found = run_on(tmp_path)
    entry = found["recipes"][sample.WITHIN]
    facts = (found["totals"]["broken"], entry["state"], entry["verdict"], len(entry["problems"]))
    assert facts == (1, "broken", None, 1)
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
    assert content["totals"]["not_run"] == len(ALL)
    assert capsys.readouterr().out.count("problem: ") == 2


def test_odd_texts_and_values_that_are_not_finite_break_no_file(tmp_path):
    file = sample.write_detectron2(tmp_path, sample.WITHIN, range(5))
    losses = '{"iteration": 5, "total_loss": NaN}\n{"iteration": 6, "total_loss": Infinity}\n'
    file.write_text(file.read_text() + losses)
    odd = "a|b\n`c` ```d``` </style><b> \ud800 \0 é"
    steps = [Step(odd, odd, math.nan, 0)]
    write_run(tmp_path, sample.WITHIN, machine=odd, command=odd, error=odd, versions={odd: odd}, steps=steps, ended=odd)
    assert run_on(tmp_path)["recipes"][sample.WITHIN]["machine"] == odd
    text = (tmp_path / "report" / "report.html").read_text()
    assert text.count("</style>") == 1 and "to inf at iteration 6" in text
    assert text.count("&lt;/style&gt;&lt;b&gt;") == 8  # machine, command, error, two in versions and the step, ended
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "\n    machine: a|b `c` ```d``` </style><b> ? \0 é\n" in markdown
