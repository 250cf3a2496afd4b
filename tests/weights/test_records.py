"""The records of published files, and every one of them fetched from servers on the loopback interface."""

import hashlib
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from urllib.parse import urlparse

import pytest

from resnest_backbones.errors import WeightsError
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.models.variants import VARIANTS
from resnest_backbones.weights import MIRROR_VARIABLE, PUBLISHED, WEIGHTS, Record, WeightRecord, fetch, get_record
from tests.helpers import environment, serving

CONTENT = b"weights"
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]
LIVING = {name: file for name, file in PUBLISHED.items() if file.server_answers}
ALL: dict[str, Record] = {**WEIGHTS, **LIVING}


@pytest.fixture(autouse=True)
def no_mirror_and_no_proxy(monkeypatch):
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def living(shared) -> dict:
    """live_checkpoints.json."""
    return json.loads((shared / "reference" / "live_checkpoints.json").read_text())


def test_the_records_of_networks_are_the_published_ones(published, living):
    imagenet = published["imagenet"]
    of_timm = {row["name"]: row for row in living["imagenet"]["rows"]}
    facts = [(row["name"], row["sha256_prefix"], row["crop"], row["top1"]) for row in imagenet["models"]]
    facts += [
        (row["name"], row["sha256_prefix"], row["crop"], row["top1"]) for row in of_timm.values() if "crop" in row
    ]
    assert [(r.name, r.sha256_prefix, r.crop, r.top1) for r in WEIGHTS.values()] == facts
    for name, record in WEIGHTS.items():
        assert record.name == name in VARIANTS
        row = of_timm.get(name)
        if row is None or "crop" not in row:
            url = imagenet["url_format"].format(name=name, sha256_prefix=record.sha256_prefix)
            assert record.urls == ((url, row["url"]) if row else (url,))
            assert record.source == published["sources"]["imagenet"].split(" ")[0]
        else:
            assert record.urls == (row["url"],) and record.filename == row["file"]
            assert record.source == living["imagenet"]["source"].split(" ")[0]
        assert record.hub == (row["hub"] if row else "")
        assert (list(record.mean), list(record.std)) == (imagenet["mean"], imagenet["std"])
        assert (record.channel_order, record.license) == (imagenet["channel_order"], imagenet["license"])


def test_the_trained_models_that_can_be_fetched_are_those_of_their_servers_both_ways(living):
    schedules = {"ade20k": "4xb4-160k_ade20k-512x512", "cityscapes": "4xb2-80k_cityscapes-512x1024"}
    rows = {f"{row['method']}_{row['backbone']}_fpn_1x_mmdet": row for row in living["mmdetection"]["rows"]}
    for row in living["mmsegmentation"]["rows"]:
        rows[f"{row['method']}_{row['backbone']}-d8_{schedules[row['dataset']]}"] = row
    assert rows.keys() == LIVING.keys() and len(rows) == 16
    for name, row in rows.items():
        file, several = LIVING[name], row["published"].pop("miou_scales_flip", None)
        assert (file.name, file.sha256_prefix, file.urls) == (row["file"], row["sha256_prefix"], (row["url"],))
        metrics = {**row["published"], **({"miou_multi_scale": several} if several else {})}
        assert RECIPES[name].metrics == metrics and RECIPES[name].file is file


def test_a_record_is_found_by_name_or_uri():
    assert get_record("resnest50") is get_record("resnest://resnest50") is WEIGHTS["resnest50"]
    name = "deeplabv3_resnest101-d8_4xb4-160k_ade20k-512x512"
    assert get_record(f"resnest://{name}") is PUBLISHED[name]
    for name, hint in (
        ("", "available: resnest50, .*, and the trained models"),
        ("resnest://resnest51", "did you mean resnest50 or "),
        ("faster_rcnn_resnest50_fpn_1x_mmdte", "did you mean faster_rcnn_resnest50_fpn_1x_mmdet"),
    ):
        message = f"no published weights are known for '{name}'; {hint}"
        with pytest.raises(ValueError, match=message):
            get_record(name)
    with pytest.raises(
        ValueError, match=r"cannot be downloaded, because https://s3.* is offline; .*ad123c0b\.pth\), pass"
    ):
        get_record("resnest://faster_rcnn_resnest50_fpn_1x")


def on_servers(record: Record, *servers: str) -> Record:
    """A record whose places are on these servers, under the paths that they have, with the hash of ``CONTENT``."""
    if isinstance(record, WeightRecord):
        folders = (record.base_url, *record.other_urls)
        first, *others = (server + urlparse(folder).path for server, folder in zip(servers, folders, strict=False))
        return replace(record, base_url=first, other_urls=tuple(others), sha256_prefix=DIGITS, hub="")
    return replace(record, server=servers[0] + urlparse(record.server).path, hash_prefix=DIGITS)


@pytest.mark.parametrize("name", ALL)
def test_every_file_is_fetched_from_the_first_place_that_has_it(name, tmp_path, caplog):
    with serving(CONTENT, "missing") as dead, serving(CONTENT) as alive:
        record = on_servers(ALL[name], dead.url, alive.url)
        has_another = len(record.urls) > 1
        if has_another:
            file = fetch(record, cache_dir=tmp_path, progress=False)
            assert f"{record.url} answered 404 Not Found; trying {record.urls[1]}" in caplog.text
        else:
            message = rf"{re.escape(record.url)} answered 404 Not Found\. Nothing was kept"
            with pytest.raises(WeightsError, match=message):
                fetch(record, cache_dir=tmp_path, progress=False)
            file = fetch(on_servers(ALL[name], alive.url), cache_dir=tmp_path, progress=False)
            assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []
        assert file == tmp_path / record.filename and file.read_bytes() == CONTENT
        assert [*dead.requests, *alive.requests] == [urlparse(url).path for url in (record.url, record.urls[-1])]
        for behaviour, said in (
            ("broken off", "IncompleteRead"),
            ("whole", "sent a different file: its sha256 begins with"),
        ):
            file.unlink()
            dead.content, dead.behaviour = CONTENT + b"!", behaviour
            if has_another:
                assert fetch(record, cache_dir=tmp_path, progress=False).read_bytes() == CONTENT
                assert said in caplog.text
            else:
                with pytest.raises(WeightsError, match=said):
                    fetch(on_servers(ALL[name], dead.url), cache_dir=tmp_path, progress=False)
                file.write_bytes(CONTENT)


def test_a_mirror_replaces_all_places(tmp_path, monkeypatch):
    with serving(CONTENT, "missing") as server:
        monkeypatch.setenv(MIRROR_VARIABLE, f"{server.url}/mirror")
        record = get_record("faster_rcnn_resnest50_fpn_1x_mmdet")
        for known in (WEIGHTS["resnest50"], record):
            with pytest.raises(WeightsError, match="answered 404 Not Found"):
                fetch(known, cache_dir=tmp_path, progress=False)
    assert server.requests == ["/mirror/resnest50-528c19ca.pth", f"/mirror/{record.name.replace('+', '%2B')}"]


HUB = """
import hashlib, http.server, os, pathlib, sys, threading
from dataclasses import replace
import torch
from safetensors.torch import save_file
import resnest_backbones as rb

folder = pathlib.Path(sys.argv[1])
net = rb.build("resnest14")
save_file(rb.convert_state_dict(net.state_dict(), "timm"), folder / "file.safetensors")
content = (folder / "file.safetensors").read_bytes()
digest, asked = hashlib.sha256(content).hexdigest(), []

class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self, body=b""):
        asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        headers = {"X-Repo-Commit": 40 * "0", "ETag": f'"{digest}"', "Content-Length": str(len(content))}
        for pair in headers.items():
            self.send_header(*pair)
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.do_HEAD(content)
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HOME"], os.environ["TORCH_HOME"] = str(folder / "hf"), str(folder / "torch")
rb.weights.WEIGHTS["resnest14"] = replace(rb.weights.WEIGHTS["resnest14"], base_url="http://127.0.0.1:1")
filled = rb.build("resnest14")
report = rb.load_checkpoint(filled, "resnest://resnest14")
print(report.file, report.layout)
assert all(torch.equal(value, net.state_dict()[key]) for key, value in filled.state_dict().items())
path = "/timm/resnest14d.gluon_in1k/resolve/main/model.safetensors"
assert asked.count(f"GET {path}") == 1, asked
blob = report.file.resolve()
blob.write_bytes(content[:-1000] + bytes(1000))
assert rb.weights.fetch(rb.weights.get_record("resnest14"), progress=False) == report.file
assert blob.read_bytes() == content, "a damaged file is fetched again"
server.shutdown(), server.server_close()
assert rb.weights.fetch(rb.weights.get_record("resnest14"), progress=False) == report.file, "no server is needed again"
"""


@pytest.mark.slow
def test_the_hub_is_the_last_place_and_keeps_its_own_cache(tmp_path):
    """In a process of its own, as the hub's client reads its address when it is imported."""
    for package in ("huggingface_hub", "safetensors"):
        pytest.importorskip(package)
    command = [sys.executable, "-W", "ignore", "-c", HUB, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "hf" / "hub"))
    assert done.stdout.endswith("model.safetensors official\n")
    assert "trying https://huggingface.co/timm/resnest14d.gluon_in1k" in done.stderr
