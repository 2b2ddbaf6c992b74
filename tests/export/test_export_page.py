"""Tests of `export.html`: one self-contained page, with complete and incomplete reports."""

import base64
import copy
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from kvae.export.report.page import render
from kvae.export.report.pictures import Pictures

VOID = {"meta", "img", "br", "line", "circle", "polyline"}  # tags without an end tag; SVG writes <line/>


class Page(HTMLParser):
    """Parser that fails at wrongly nested tags and stores the text, the tags and the texts of ids."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words, self.blocks = [], [], [], {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag, f"</{tag}> at line {self.getpos()[0]}"
        self.words.append(" " if tag in ("td", "th", "dt", "h1", "title") else "")

    def handle_data(self, data):
        if "style" not in [tag for tag, _ in self.open]:
            self.words.append(data)
        for _, name in self.open:
            self.blocks[name] = self.blocks.get(name, "") + data


def output(shape, budget=0.3, error=0.15):
    errors = {"max_abs_error": error, "mean_abs_error": error / 100}
    return {"shape": shape, "dtype": "float32", **errors, "budget": {"max": budget, "mean": budget / 30}}


IMAGE, LATENT = ["B", 8, 8, 1], ["B", 2]
SIGNATURES = {
    "decode": {"inputs": {"z": {"shape": LATENT, "dtype": "float32"}}, "outputs": {"image": output(IMAGE)}},
    "encode": {
        "inputs": {"image": {"shape": IMAGE, "dtype": "float32"}},
        "outputs": {"mean": output(LATENT, budget=0.0, error=0.0)},
    },
}


def artifact(path, size, behaviour=None, format="litert"):
    return {
        "path": path,
        "format": format,
        "precision": path.removeprefix("vae_").removesuffix(".tflite") if format == "litert" else "float32",
        "bytes": size,
        "sha256": f"{size:064x}",
        "signatures": copy.deepcopy(SIGNATURES),
        "operators": ["ADD", "CONV_2D"] if format == "litert" else None,
        "builtin_only": True if format == "litert" else None,
        "behaviour": behaviour,
    }


def report(*artifacts, **model):
    facts = {
        "kind": "autoencoder", "event": "image", "event_shape": [8, 8, 1], "latent_dim": 2, "parameters": 1234,
        "value_range": [0.0, 1.0],
        "likelihood": "Bernoulli", "posterior": None, "prior": None, "batch_sizes": [1, 16], "dynamic_batch": False,
        "signatures": SIGNATURES, "data": None, "latents": None, "score": None, "license": None,
    }  # fmt: skip
    return {
        "packages": {"keras-vae": "0.1.0", "litert-quantizer": None},
        "model": {**facts, **model},
        "verification": {"images": "given", "latents": "prior", "tested_on": 40, "batch_sizes": [1, 16]},
        "warnings": [],
        "artifacts": list(artifacts),
    }


def loses(nats):
    return {"nats_lost": nats, "elbo": -78.0 - nats, "psnr": 40.0, "psnr_data": 17.0}


def pictures(shape=(8, 8, 1), n=16, off=0.1):
    images = np.random.default_rng(0).random((n, *shape), dtype="float32")
    return [Pictures("Keras", images, images**2, images), Pictures("vae_int8.tflite", images, images**2, images + off)]


def test_page_of_an_export(exported, images, tmp_path, monkeypatch):
    found = json.loads((exported / "report.json").read_text())
    html = render(found, [Pictures("Keras", images[:16], images[16:32], images[:16]), *pictures()[1:]])
    page = Page(html)
    # The page is self-contained: it fetches nothing and runs nothing.
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.findall(r"url\(|@import|https?://", html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"}
    assert ("meta", "Content-Security-Policy") in [(tag, a.get("http-equiv")) for tag, a in page.tags]
    assert len(html) < 1e6
    for entry in found["artifacts"]:
        assert entry["sha256"] in page.text
        assert f"{entry['bytes']:,} bytes" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.lower().replace("nano", "")
    # The programs on the page run.
    monkeypatch.chdir(exported)
    exec(page.blocks["python"], scope := {})
    assert scope["images"].shape == scope["moved"].shape == (16, 8, 8, 1)
    assert ((scope["percent"] >= 0) & (scope["percent"] <= 100)).all()
    for command in re.findall(r"python -m (kvae\.export\.runtime [^\n]+?)</pre>", html):
        arguments = command.replace("grid.png", str(tmp_path / "grid.png")).split()
        subprocess.run([sys.executable, "-m", *arguments], check=True, capture_output=True)
    assert (tmp_path / "grid.png").exists()


def test_the_export_writes_the_page(exported):
    page = Page((exported / "export.html").read_text(encoding="utf-8"))
    assert "The same 16 new images" in page.text
    assert "vae_int8.tflite differs by at most" in page.text
    assert "a smile 1.70 −1.50 to 1.25 96 % 67 % 0.970 80 %" in page.text


AUTOENCODER = report(
    artifact("saved_model", 3_000_000, {"psnr": 200.0, "psnr_data": 17.5}, "saved_model"),
    artifact("autoencoder_float32.tflite", 2_000_000, {"psnr": 140.0, "psnr_data": 17.5}),
    artifact("autoencoder_int8.tflite", 671_504, {"psnr": 61.4, "psnr_data": 17.5, "latency_us": {}}),
)
WITHOUT_IMAGES = report(artifact("vae_float32.tflite", 2_000), artifact("vae_int8.tflite", 999))


def test_an_autoencoder_has_no_scores():
    shown = [Pictures(p.title, p.images, p.reconstructions, None) for p in pictures()]
    page = Page(render(AUTOENCODER, shown))
    assert "An autoencoder of 8×8×1 images, exported" in page.text
    assert "autoencoder_int8.tflite contains the whole model in 672 kB" in page.text
    assert "17.5 dB" in page.text
    for absent in ("ELBO", "nats lost", "--generate", "generate(", "new images", "None", "What does a score mean?"):
        assert absent not in page.text
    compile(page.blocks["python"], "snippet", "exec")


def test_a_report_without_behaviour():
    bare = {**WITHOUT_IMAGES, "verification": {"images": "noise", "tested_on": 0}}
    page = Page(render(bare, [Pictures("Keras", None, None, None)]))
    assert "The inputs were noise, not images" in page.text
    assert "The smallest file. Its loss is unknown" in page.text
    assert "999 bytes" in page.text
    assert "Speed and memory" not in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_a_report_without_fixed_batch_sizes():
    """Latencies are measured at fixed batch sizes."""
    does = {"latency_us": {}, "cold_start_ms": 117.2, "peak_memory_mb": 59.0}
    page = Page(render(report(artifact("vae_int8.tflite", 10, does), batch_sizes=[], dynamic_batch=True), []))
    assert "vae_int8.tflite 117 ms 59 MB" in page.text
    assert "decode 1" not in page.text
    assert "Every signature, on one" not in page.text


@pytest.mark.parametrize("of", ["validation", "test"])
def test_the_choice_of_auto(of):
    choice = {
        "images": 2000, "of": of, "budgets": {"nats_lost": 0.5, "accuracy_lost": 0.005},
        "lost": {
            "vae_float32.tflite": {"nats_lost": 1e-6, "accuracy_lost": -0.01},
            "vae_int8.tflite": {"nats_lost": 0.27, "accuracy_lost": 0.004},
        },
        "latency_us": {"vae_float32.tflite": 31.4, "vae_int8.tflite": 2_500.0},
        "refused": {"vae_full_int8.tflite": "Expected"},
    }  # fmt: skip
    page = Page(render({**report(artifact("vae_int8.tflite", 10, None)), "choice": choice}, []))
    assert (
        f"Chosen on 2,000 {of} images: the smallest file that loses at most 0.50 nats and 0.5 points of accuracy "
        "and takes at most 1.5 times as long as the fastest of these: vae_float32.tflite loses less than 0.001 nats "
        "and no accuracy and takes 31 µs, vae_int8.tflite loses 0.27 nats and 0.4 points of accuracy and takes 2.5 ms. "
        "vae_full_int8.tflite was refused."
    ) in page.text


@pytest.mark.parametrize("kept", ["saved_model", "onnx"])
def test_a_report_without_litert_files(kept):
    page = Page(render(report(artifact(kept, 5_000_000, None, kept)), []))
    assert f"{kept}/" in page.text
    assert "vae_" not in page.text


LOST = {
    "float32": (2_000_000, 0.0),
    "float16": (1_000_000, 0.0004),
    "int8": (600_000, 0.27),
    "full_int8": (700_000, 0.4),
}


@pytest.mark.parametrize(
    ("files", "suggested"),
    [
        (LOST, "Recommended: the smallest file that loses less than 0.5 nats."),
        ({**LOST, "int8": (600_000, 3.0)}, "Smaller, but loses 3.0 nats."),
        ({"int8": (600_000, 3.0), "full_int8": (700_000, 4.0)}, "The smallest loss, but larger than recommended"),
        ({"int8": (600_000, 0.1)}, "The LiteRT file of this export."),
        (LOST, "1.7× the size; loses less than 0.001 nats instead of 0.27 nats."),
        (LOST, "Larger than vae_int8.tflite and further from Keras."),
        ({**LOST, "float32": (2_000_000, -0.2)}, "3.3× the size; loses nothing instead of 0.27 nats."),
    ],
)
def test_the_recommended_file(files, suggested):
    entries = [artifact(f"vae_{name}.tflite", size, loses(nats)) for name, (size, nats) in files.items()]
    assert suggested in Page(render(report(*entries, kind="vae"), [])).text


def test_errors_are_shares_of_the_budget():
    page = Page(render(WITHOUT_IMAGES, []))
    # 0.15 of 0.3 and 0.0015 of 0.01; the latents have a budget of zero and are equal.
    assert "vae_int8.tflite 50 % equal" in page.text
    assert "decode image 0.15 0.30 0.0015 0.010" in page.text


def test_user_text_is_escaped():
    evil = "<script>alert(1)</script>"
    hurt = report(artifact("vae_int8.tflite", 10), data=evil, license=evil + "x" * 200, likelihood=evil, kind=evil)
    html = render(
        {**hurt, "warnings": [evil], "packages": {evil: evil}}, [Pictures(evil, *[np.ones((1, 4, 4, 1))] * 3)]
    )
    assert "<script" not in html
    assert Page(html).text.count(evil) >= 6


@pytest.mark.parametrize(("channels", "mode"), [(1, "LA"), (3, "RGBA"), (5, "LA")])
def test_pictures(channels, mode):
    html = render(WITHOUT_IMAGES, pictures((6, 5, channels)))
    sources = [a["src"] for tag, a in Page(html).tags if tag == "img"]
    assert len(sources) == 3 + 2 + 1  # images and two reconstructions; two samples; a difference
    strip = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert (strip.mode, strip.size) == (mode, (16 * 6 - 1, 6))
    first = np.asarray(strip)[:, :5, 0]
    np.testing.assert_array_equal(first, (255 * pictures((6, 5, channels))[0].images[0, ..., 0]).round())
    assert "differs by at most 26 levels of 255" in html  # 0.1 is 25.5 levels
    assert "every pixel equals Keras" in html


def test_large_pictures_and_nan_fit_on_the_page():
    large = pictures((64, 64, 3), off=np.float32("nan"))
    html = render(WITHOUT_IMAGES, large)
    assert "The same 8 new images" in html
    assert len(html) < 2e6


def test_scores_become_a_curve():
    quantiles = [[0.0, 10.0], [0.5, 20.0], [1.0, 40.0]]
    page = Page(render(report(artifact("vae_int8.tflite", 10), score={"images": 7, "quantiles": quantiles}), []))
    assert "on 7 ordinary images" in page.text
    assert "50 % 20.0" in page.text
    assert "90 % 36.0" in page.text  # linear between the quantiles, as `percentile` reads them
    (points,) = (a["points"] for tag, a in page.tags if tag == "polyline")
    assert points == "0.0,170.0 146.7,85.0 440.0,0.0"
    same = [[0.0, 5.0], [1.0, 5.0]]
    Page(render(report(artifact("vae_int8.tflite", 10), score={"images": 1, "quantiles": same}), []))
