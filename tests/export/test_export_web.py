"""Tests of the web page: its files, and its results and controls in a real browser."""

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sensors import SENSORS, STEPS, windows

import kvae
import kvae.export
from kvae.export import ExportError, flatbuffer, web
from kvae.export.runtime import load

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
# WebGPU without a GPU: Chromium's Vulkan in software
SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
DOCS = Path(__file__).parents[2] / "docs" / "on_device.md"
LATENTS, SHAPE = 2, (8, 8, 1)


class Server:
    """Server of a folder on http://localhost."""

    def __init__(self, folder: Path):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def parse_request(handler):
                return not self.down and super().parse_request()  # down: no response

            def log_message(handler, *args):
                pass

        self.down = False
        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://localhost:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def files(exported, conditional, images, series_folder, tmp_path_factory):
    """`float32` and `int8` of a VAE, an `autoencoder`, a `conditional` VAE and one of `series`: exported files."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("autoencoder")
    autoencoder = kvae.Autoencoder(latent_dim=10, image_shape=SHAPE)
    kvae.export.export(autoencoder, folder, data=images, precisions=("float32",))
    return {
        "float32": exported / "vae_float32.tflite",
        "int8": exported / "vae_int8.tflite",
        "autoencoder": folder / "autoencoder_float32.tflite",
        "conditional": conditional[-1] / "vae_float32.tflite",
        "series": series_folder / "vae_int8.tflite",
    }


@pytest.fixture(scope="module")
def litert(tmp_path_factory):
    """Folder with LiteRT.js, in the layout of the cache."""
    try:
        files = web._cached()
    except ExportError as error:
        pytest.skip(f"no LiteRT.js: {error}")
    folder = tmp_path_factory.mktemp("litert")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def sites(files, litert, tmp_path_factory):
    """Addresses of pages, by the name of the file."""
    folder = tmp_path_factory.mktemp("sites")
    servers = {}
    for name, path in files.items():
        web.write(path, folder / name, runtime=litert)
        servers[name] = Server(folder / name)
    yield {name: server.url for name, server in servers.items()}
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="module")
def playwright():
    module = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with module.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def gpu_browser(playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GPU])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(browser, sites):
    """Function that opens a page, and the list of errors and of requests to other hosts."""
    wrong = []

    @functools.cache
    def opened(name="float32", url=None, before="", phone=False, service_workers="block", fragment="", browser=browser):
        options = PHONE if phone else {}
        context = browser.new_context(reduced_motion="reduce", service_workers=service_workers, **options)
        url = url or sites[name]
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.add_init_script(before)
        own = (url, f"blob:{url}")
        page.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.goto(url + fragment)
        page.evaluate("async () => { await kvae.ready }")
        return page

    return opened, wrong


@pytest.fixture
def visit(pages):
    """Function that opens a page, or returns an open one; at the end, the test fails on errors of the page."""
    opened, wrong = pages
    wrong.clear()
    yield opened
    assert wrong == []


def generate(page, *arguments):
    """Return `{image, z}` of the page as arrays; JavaScript's numbers represent any float32 exactly."""
    code = "async (a) => { const o = await kvae.generate(...a); return [Array.from(o.image), Array.from(o.z)] }"
    image, z = (np.array(values, np.float32) for values in page.evaluate(code, list(arguments)))
    return {"image": image.reshape(-1, *SHAPE), "z": z.reshape(-1, LATENTS)}


def settle(page):
    """Wait until the page has computed and drawn everything; a frame may start the next run of the model."""
    page.evaluate("""async () => {
        const model = await kvae.ready;
        for (let i = 0; i < 6; i++) {
          await new Promise(requestAnimationFrame);
          await model.last;
        }
    }""")


def picture(page, name):
    """Return the grey levels of a canvas, `(H, W)`."""
    code = "(e) => [e.width, Array.from(e.getContext('2d').getImageData(0, 0, e.width, e.height).data)]"
    width, data = page.locator(name).first.evaluate(code)
    return np.array(data, np.uint8).reshape(-1, width, 4)[..., 0]


def as_bytes(image):
    return np.rint(255 * np.clip(image, 0, 1)).astype(int)


def draw(page, *points):
    """Draw a line on the drawing pad; coordinates are in [0, 1]."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    for i, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if i == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#result-content:not([hidden])")


# Results


@pytest.mark.parametrize(("name", "tolerance"), [("float32", 1e-5), ("int8", 0.1)])
def test_a_seed_draws_the_same_images_as_in_python(visit, files, name, tolerance):
    page, model = visit(name), load(files[name])
    for seed, n, temperature in (7, 17, 1.0), (-1, 2, 1.0), (2**64 - 2, 1, 0.7), (3 - 2**63, 1, 1.5):
        wanted = model.run(
            "generate",
            seed=kvae.export.runtime.seed_words(seed),
            index=np.arange(n, dtype=np.int32),
            temperature=np.array([temperature], np.float32),
        )
        found = generate(page, str(seed), n, temperature)
        np.testing.assert_array_equal(found["z"].view(np.int32), wanted["z"].view(np.int32))
        np.testing.assert_allclose(found["image"], wanted["image"], rtol=0, atol=tolerance)
        if name == "float32":
            assert np.abs(as_bytes(found["image"]) - as_bytes(wanted["image"])).max() <= 1
    page.fill("#seed", "7")
    settle(page)
    gallery = as_bytes(model.generate(16, seed=7)[0, ..., 0])
    assert np.abs(picture(page, ".tile canvas") - gallery).max() <= 1 + 255 * (tolerance if name == "int8" else 0)


def test_the_other_endpoints_equal_python(visit, files):
    page, model = visit(), load(files["float32"])
    images = np.random.default_rng(3).random((3, *SHAPE), dtype=np.float32)
    code = """async (values) => {
        const image = Float32Array.from(values), { mean, variance } = await kvae.encode(image);
        const score = await kvae.score(image), D = mean.length / 3;
        const found = { mean, variance, reconstruction: await kvae.reconstruct(image), decoded: await kvae.decode(mean),
          path: await kvae.interpolate(mean.slice(0, D), mean.slice(D, 2 * D), Float32Array.of(0, 0.25, 0.5, 0.75, 1)),
          negative_elbo: score.negative_elbo, distortion: score.distortion, rate: score.rate };
        for (const name in found) found[name] = Array.from(found[name]);
        const nats = [...found.negative_elbo, -1e9, 1e9];
        return { ...found, percent: await Promise.all(nats.map((value) => kvae.percentile(value))),
          p: await Promise.all(nats.map((value) => kvae.pValue(value))) };
    }"""
    found = page.evaluate(code, images.ravel().tolist())
    latents, score = model.encode(images), model.score(images)
    wanted = {
        **latents._asdict(),
        **score,
        "reconstruction": model.reconstruct(images),
        "decoded": model.decode(latents.mean),
        "path": model.interpolate(*latents.mean[:2], steps=5),
        # From the page's own nats, because their rounding errors matter where quantiles are close together.
        "percent": [*model.percentile(np.array(found["negative_elbo"])), 0, 100],
        "p": [*model.p_value(np.array(found["negative_elbo"])), 1, model.p_value(1e9)],
    }
    for name, values in wanted.items():
        # The browser adds in another order; nats are sums over the pixels.
        np.testing.assert_allclose(found[name], np.ravel(values), rtol=1e-4, atol=1e-5, err_msg=name)


def test_browsers_without_relaxed_simd_get_the_other_build(browser, sites, files):
    code = """const instantiate = WebAssembly.instantiate;
        WebAssembly.instantiate = async (wasm, ...more) => {
          if (wasm.byteLength === 36) throw new WebAssembly.CompileError("no relaxed SIMD");  // LiteRT's check
          return instantiate.call(WebAssembly, wasm, ...more);
        };"""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    worker = code + (web.SITE / "worker.js").read_text()
    page.route("**/worker.js", lambda route: route.fulfill(body=worker, content_type="text/javascript"))
    with page.expect_request("**/litert_wasm_compat_internal.wasm"):
        page.goto(sites["float32"])
    wanted = load(files["float32"]).generate(1, seed=7)
    np.testing.assert_allclose(generate(page, 7, 1)["image"], wanted, rtol=0, atol=1e-5)
    context.close()


# CPU, GPU and worker


def test_the_page_responds_while_the_model_runs(visit):
    page = visit()
    (worker,) = page.workers
    assert worker.evaluate("typeof litert.loadLiteRt") == "function"
    turns = page.evaluate("""async () => {
        let [turns, done] = [0, false];
        const generated = kvae.generate(7, 2000).finally(() => (done = true));
        while (!done) { await new Promise((resolve) => setTimeout(resolve, 1)); turns++; }
        return turns;
    }""")
    assert turns > 10


def test_the_content_security_policy_holds_in_the_worker(browser, sites):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(sites["float32"])
    page.evaluate("async () => { await kvae.ready }")
    code = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'fetched', () => 'refused')"
    (worker,) = page.workers
    assert worker.evaluate(code, sites["float32"] + "style.css") == "fetched"
    assert worker.evaluate(code, sites["int8"] + "style.css") == "refused"  # another origin
    context.close()


def test_a_gpu_draws_the_same_images(visit, gpu_browser, files):
    page, model = visit(browser=gpu_browser), load(files["float32"])
    if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
        pytest.skip("this Chromium has no WebGPU in software")
    assert page.evaluate("kvae.gpu")
    assert page.inner_text("#runs-on") == "GPU and CPU"
    gpu = page.evaluate("kvae.ready.then((model) => model.gpu)")
    one_image = {f"{endpoint}_1" for endpoint in web.GPU_ENDPOINTS}
    assert one_image <= set(gpu["signatures"])
    assert {*gpu["signatures"], *gpu["different"]} == {f"{name}_{n}" for name in web.GPU_ENDPOINTS for n in (1, 16)}
    assert all(name in page.inner_text("#gpu-text") for name in (*gpu["signatures"], *gpu["different"]))
    for n in 1, 17:
        found, wanted = generate(page, 7, n), model.generate(n, seed=7)
        assert np.abs(as_bytes(found["image"]) - as_bytes(wanted)).max() <= 1
    page.click("#reset")
    settle(page)
    on_gpu = picture(page, "#picture")
    asked = """async (signature) => {
        const model = await kvae.ready, { ask } = model, seen = [];
        model.ask = (task, input) => { seen.push([input.signature, Boolean(input.gpu)]); return ask(task, input); };
        await model.generate(1);
        model.ask = ask;
        return seen;
    }"""
    drawn, decoded = page.evaluate(asked)
    assert drawn[0] in ("latents_1", "generate_1")
    assert not drawn[1]  # random numbers: never on the GPU
    assert decoded == ["decode_1", True]
    page.click("#gpu-button")
    assert page.inner_text("#runs-on") == "CPU"
    assert not any(on_gpu for _, on_gpu in page.evaluate(asked))
    page.click("#random")
    page.click("#reset")
    settle(page)
    assert np.abs(picture(page, "#picture").astype(int) - on_gpu).max() <= 1
    page.click("#gpu-button")
    assert page.inner_text("#runs-on") == "GPU and CPU"


@pytest.mark.slow
def test_a_gpu_with_wrong_results_is_not_used(gpu_browser, sites):
    context = gpu_browser.new_context(service_workers="block")
    page = context.new_page()
    worker = (web.SITE / "worker.js").read_text()
    broken = worker.replace("found[name][i])", "1 + found[name][i])")
    assert broken != worker
    page.route("**/worker.js", lambda route: route.fulfill(body=broken, content_type="text/javascript"))
    page.goto(sites["float32"])
    if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
        pytest.skip("this Chromium has no WebGPU in software")
    assert page.evaluate("kvae.gpu") is False
    assert page.inner_text("#runs-on") == "CPU"
    assert "computes different images from the CPU" in page.inner_text("#gpu-text")
    assert page.locator("#gpu-switch").is_hidden()
    context.close()


def test_without_a_gpu_the_cpu_runs_everything(visit):
    for name, reason in ("float32", "no WebGPU"), ("int8", "int8 weights"):
        page = visit(name)
        assert page.evaluate("kvae.gpu") is False
        assert page.inner_text("#runs-on") == "CPU"
        assert reason in page.inner_text("#gpu-text")


# Offline


@pytest.mark.slow
def test_the_page_works_offline_and_is_updated(visit, files, litert, tmp_path):
    site = tmp_path / "site"
    web.write(files["float32"], site, runtime=litert, title="The first")
    server = Server(site)
    page = visit(url=server.url, service_workers="allow")
    page.wait_for_selector("#offline:text-is('ready')")
    before = generate(page, 7, 2)
    server.down = True
    page.reload()
    assert page.title() == "The first"
    np.testing.assert_array_equal(generate(page, 7, 2)["image"], before["image"])
    web.write(files["int8"], site, runtime=litert, title="The second")
    server.down = False
    page.reload()
    with page.expect_navigation():
        page.click("#reload")
    assert page.title() == "The second"
    page.evaluate("async () => { await kvae.ready }")
    assert page.evaluate("async () => (await caches.keys()).length") == 1
    server.stop()


# Controls


def test_sliders(visit, files):
    page, model = visit(), load(files["float32"])
    active = model.info["latents"]["active"] or range(LATENTS)
    first = page.locator("#slider-list input").first
    assert first.get_attribute("id") == f"z{active[0]}"
    page.click("#reset")
    settle(page)
    start, mean = picture(page, "#picture"), model.info["latents"]["mean"]
    assert np.abs(start - as_bytes(model.decode([mean])[0, ..., 0])).max() <= 1
    first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    settle(page)
    z = [page.locator(f"#z{d}").evaluate("(e) => e.valueAsNumber") for d in range(LATENTS)]
    assert z[active[0]] > mean[active[0]]
    assert np.abs(picture(page, "#picture") - as_bytes(model.decode([z])[0, ..., 0])).max() <= 1
    page.click("#random")
    settle(page)
    assert (picture(page, "#picture") != start).any()
    page.click("#reset")
    settle(page)
    np.testing.assert_array_equal(picture(page, "#picture"), start)


def test_sliders_of_directions(visit, files):
    page, model = visit(), load(files["float32"])
    smile, other = page.locator("#direction0"), page.locator("#direction1")

    def latents():
        return [[page.locator(f"#z{d}").evaluate("(e) => e.valueAsNumber") for d in range(LATENTS)]]

    assert page.locator("#directions label").all_inner_texts() == ["a smile", "<b>"]
    assert [float(smile.get_attribute(end)) for end in ("min", "max")] == [-1.5, 1.25]
    before = latents()
    smile.fill("1")
    settle(page)
    after = latents()
    steps = 1 - model.position(before, "a smile")
    np.testing.assert_allclose(after, model.move(before, "a smile", steps), atol=1e-5)
    assert float(other.input_value()) == pytest.approx(model.position(after, "<b>")[0], abs=1e-5)
    assert np.abs(picture(page, "#picture") - as_bytes(model.decode(after)[0, ..., 0])).max() <= 1
    page.locator("#z0").fill("-2.5")  # the directions follow the latents
    position = model.position(latents(), "a smile")[0]
    assert float(smile.input_value()) == pytest.approx(position, abs=1e-5)
    assert page.inner_text("label[for=direction0] ~ output") == f"{position:.2f}".replace("-", "−")
    assert "“a smile” 96\u00a0% (the larger class alone: 67\u00a0%)" in page.inner_text("#directions-text")
    code = "async () => [await kvae.position([1, 2, 3, 4], 'a smile'), await kvae.move([1, 2], '<b>', 2)]"
    positions, moved = page.evaluate(code)
    np.testing.assert_allclose(positions, model.position([[1, 2], [3, 4]], "a smile"), rtol=1e-5)
    assert moved == [2, 2]
    assert visit("autoencoder").locator("#directions").is_hidden()  # a file without directions


def test_gallery_and_path_by_pointer(visit, files):
    page, model = visit(), load(files["float32"])
    page.fill("#seed", "-12345678901234567")
    page.click("#more-images")
    page.locator(".tile").nth(31).wait_for()
    images = as_bytes(model.generate(32, seed=-12345678901234567)[..., 0])
    settle(page)
    tiles = page.locator(".tile")
    tiles.nth(20).click()
    settle(page)
    assert np.abs(picture(page, "#picture") - images[20]).max() <= 1
    assert "Image 21" in page.inner_text("#chosen")
    assert page.locator("#path").is_hidden()
    tiles.nth(3).click()
    page.wait_for_selector("#path:not([hidden])")
    settle(page)
    assert [tile.get_attribute("data-mark") for tile in (tiles.nth(20), tiles.nth(3))] == ["1", "2"]
    assert np.abs(picture(page, "#strip canvas:first-child") - images[20]).max() <= 1
    assert np.abs(picture(page, "#strip canvas:last-child") - images[3]).max() <= 1
    page.locator("#position").fill("1")
    settle(page)
    assert np.abs(picture(page, "#morph") - images[3]).max() <= 1
    page.click("#play")
    page.wait_for_timeout(300)
    assert page.locator("#position").evaluate("(e) => e.valueAsNumber") < 1
    page.click("#play")
    assert page.inner_text("#play") == "Play"
    tiles.nth(3).click()
    assert page.locator("#path").is_hidden()


def test_gallery_by_keyboard(visit, files):
    page, model = visit(), load(files["float32"])
    page.focus("#seed")
    page.keyboard.press("Control+A")
    page.keyboard.type("nonsense")
    assert page.get_attribute("#seed", "aria-invalid") == "true"
    assert "whole number" in page.inner_text("#seed-problem")
    page.keyboard.press("Control+A")
    page.keyboard.type("18446744073709551615")
    assert page.inner_text("#seed-problem") == ""
    settle(page)
    for _ in range(3):  # the button for a new seed, the temperature, the first image
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#path:not([hidden])")
    settle(page)
    wanted = as_bytes(model.generate(2, seed=2**64 - 1)[..., 0])
    assert np.abs(picture(page, "#strip canvas:first-child") - wanted[0]).max() <= 1
    assert np.abs(picture(page, "#strip canvas:last-child") - wanted[1]).max() <= 1


def test_drawing_and_score(visit, files):
    page, model = visit(), load(files["float32"])
    page.click("#clear")
    draw(page, (0.1, 0.5), (0.9, 0.5))
    settle(page)
    seen = picture(page, "#seen")
    assert seen[3:5].mean() > 30 > seen[0].max()
    score = model.score(seen[None, ..., None] / np.float32(255))
    for name in ("negative_elbo", "distortion", "rate"):
        shown = float(page.inner_text(f"#{name.replace('_', '-')}").replace("−", "-").replace(",", ""))
        assert shown == pytest.approx(score[name][0], abs=1)  # the page scored the unrounded image
    assert float(page.inner_text("#p-value")) == pytest.approx(model.p_value(score["negative_elbo"])[0], abs=0.05)
    assert page.inner_text("#verdict-word") in ("Ordinary", "Unusual", "Very unusual", "Unusually simple")
    page.click("#to-sliders")
    settle(page)
    assert np.abs(picture(page, "#picture") - picture(page, "#reconstruction").astype(int)).max() <= 1
    page.click("#clear")
    assert page.locator("#result-content").is_hidden()
    page.click("#from-sliders")
    page.wait_for_selector("#result-content:not([hidden])")
    np.testing.assert_array_equal(picture(page, "#seen"), picture(page, "#picture"))


def test_image_files(visit):
    page = visit()
    page.click("#clear")
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_selector("#result-content:not([hidden])")
    settle(page)
    halves = np.where(np.arange(8) < 4, 0, 255)  # of the middle 60 of 90 columns; a little blurred in between
    assert np.abs(picture(page, "#seen") - halves).max() < 32
    page.click("#invert")
    settle(page)
    assert np.abs(picture(page, "#seen") - (255 - halves)).max() < 32
    page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": b"nonsense"})
    page.wait_for_selector("#file-problem:not(:empty)")
    assert "“b.png” isn't an image" in page.inner_text("#file-problem")
    drop = """(element, files) => {
        const transfer = new DataTransfer();
        for (const [name, type] of files) transfer.items.add(new File(["text"], name, { type }));
        element.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    page.locator("#own").evaluate(drop, [["notes.txt", "text/plain"]])
    page.wait_for_selector("#file-problem:has-text('“notes.txt” isn\\'t an image')")
    page.locator("#own").evaluate(drop, [])
    assert "Drop an image file" in page.inner_text("#file-problem")
    page.click("#clear")
    assert page.inner_text("#file-problem") == ""


# Saving and sharing


def test_the_shown_image_is_saved_and_shared(visit):
    share = """navigator.canShare = ({ files }) => files.length === 1;
        window.shared = new Promise((resolve) => {
            navigator.share = async ({ files: [file] }) =>
                resolve([file.name, file.type, ...new Uint8Array(await file.arrayBuffer())]);
        });"""
    page = visit(before=share)
    page.click("#random")
    settle(page)
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "A-VAE.png"
    saved = np.array(Image.open(download.value.path()).convert("L"))
    assert saved.shape == (512, 512)
    np.testing.assert_array_equal(saved, np.kron(picture(page, "#picture"), np.ones((64, 64), np.uint8)))
    page.click("#share")
    name, kind, *data = page.evaluate("window.shared")
    assert (name, kind) == ("A-VAE.png", "image/png")
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(bytes(data))).convert("L")), saved)


def test_a_browser_without_sharing_has_no_share_button(visit):
    page = visit(before="navigator.canShare = undefined;")
    assert page.locator("#share").is_hidden()
    assert page.locator("#save").is_visible()


def test_a_link_restores_the_page(visit):
    copied = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"
    page = visit("conditional", before=copied)
    page.fill("#seed", "18446744073709551615")
    page.locator("#temperature").fill("0.7")
    page.locator("#condition-list button").nth(3).click()
    page.locator(".tile").nth(5).click()
    settle(page)
    page.click("#copy-link")
    link = page.evaluate("window.copied")
    assert link == page.url
    assert re.search(r"#seed=18446744073709551615&temperature=0\.7&condition=3&z=-?[\d.e-]+,-?[\d.e-]+$", link)
    assert "copied" in page.inner_text("#share-status")
    other = visit("conditional", fragment=f"#{link.partition('#')[2]}")
    settle(other)
    assert other.input_value("#seed") == "18446744073709551615"
    assert other.inner_text("#temperature-value") == "0.70"
    assert other.inner_text("#condition-list [aria-pressed=true]") == "three"
    for canvas in ("#picture", ".tile canvas"):
        np.testing.assert_array_equal(picture(other, canvas), picture(page, canvas), err_msg=canvas)


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("#z=1,2,3", "The link is for a model with 3 latents. This one has 2."),
        ("#z=1,x", "Expected numbers in the link's “z”. It has “1,x”."),
        ("#condition=12", "The link has the condition 12. This model has 10 conditions."),
    ],
)
def test_a_link_of_another_model_gives_a_message(fragment, message, visit):
    page = visit("conditional", fragment=fragment)
    assert page.inner_text("#problem") == message
    assert page.locator(".tile").count() == 16


@pytest.mark.parametrize("name", ["int8", "conditional"])
def test_narrow_touch_screen(name, visit):
    page = visit(name, phone=True)
    page.locator(".tile").nth(0).tap()
    page.locator(".tile").nth(5).tap()
    draw(page, (0.3, 0.3), (0.7, 0.7))
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    outside = """() => [...document.querySelectorAll("main :not(#condition-list *)")].filter((e) =>
        e.getClientRects().length && (e.getBoundingClientRect().right > 360.5
        || e.getBoundingClientRect().left < -0.5)).map((e) => e.id)"""
    assert page.evaluate(outside) == []
    small = """() => [...document.querySelectorAll("button:not([hidden])")].filter((e) => e.getClientRects().length
        && Math.min(e.offsetWidth, e.offsetHeight) < 40).map((e) => e.id)"""
    assert page.evaluate(small) == []


def test_every_control_has_an_accessible_name(visit):
    """Screen readers announce these names."""
    page = visit()
    code = """() => [...document.querySelectorAll("input:not([hidden]), button, canvas[role]")].filter((e) =>
        !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML)"""
    assert page.evaluate(code) == []


def test_an_autoencoder_has_no_gallery_and_no_score(visit):
    page = visit("autoencoder")
    assert page.title() == "An autoencoder"
    assert page.locator("#gallery").is_hidden()
    page.click("#random")
    assert 0 < page.locator(".latent:visible").count() <= 8
    page.click("#more-sliders")
    assert page.locator(".latent:visible").count() == 10
    draw(page, (0.2, 0.2), (0.8, 0.8))
    assert page.locator("#reconstruction").is_visible()
    assert page.locator("#score").is_hidden()
    page.click("#to-sliders")


def test_a_conditional_model_has_a_button_for_each_condition(visit, files):
    page, model = visit("conditional"), load(files["conditional"])
    buttons = page.locator("#condition-list button")
    assert buttons.all_inner_texts() == model.info["condition"]["names"]
    pressed = """() => [...document.querySelectorAll("#condition-list button[aria-pressed=true]")].map(
        (e) => e.textContent)"""
    assert page.evaluate(pressed) == ["zero"]
    page.fill("#seed", "8")
    page.click("#reset")
    draw(page, (0.5, 0.1), (0.5, 0.9))
    page.locator(".tile").nth(1).click()
    page.locator(".tile").nth(4).click()
    for digit in (0, 7, 3):
        buttons.nth(digit).click()
        settle(page)
        assert page.evaluate(pressed) == [model.info["condition"]["names"][digit]]
        images = as_bytes(model.generate(16, seed=8, condition=digit)[..., 0])
        assert np.abs(picture(page, ".tile canvas") - images[0]).max() <= 1
        assert np.abs(picture(page, "#strip canvas:first-child") - images[1]).max() <= 1
        assert np.abs(picture(page, "#strip canvas:last-child") - images[4]).max() <= 1
        z = [page.locator(f"#z{d}").evaluate("(e) => e.valueAsNumber") for d in range(LATENTS)]
        assert np.abs(picture(page, "#picture") - as_bytes(model.decode([z], digit)[0, ..., 0])).max() <= 1
        seen = picture(page, "#seen")[None, ..., None] / np.float32(255)
        rebuilt = as_bytes(model.reconstruct(seen, digit)[0, ..., 0])
        assert np.abs(picture(page, "#reconstruction") - rebuilt).max() <= 4  # the page's input was not rounded
    found = page.evaluate("""async () => {
        const model = await kvae.ready;
        model.condition = [0, 0, 0, 0.5, 0, 0, 0, 0.5, 0, 0];
        const { image } = await kvae.generate(1, 2);
        model.condition = 3;
        return Array.from(image);
    }""")
    half = np.zeros(10)
    half[[3, 7]] = 0.5
    np.testing.assert_allclose(found, model.generate(2, seed=1, condition=half).ravel(), atol=1e-5)


def test_series(visit, files, tmp_path):
    """Lines instead of pixels, the visitor's own series from a CSV file, and no word of images."""
    page, model = visit("series"), load(files["series"])
    x = windows(1, seed=3)
    reading = model.score(x)["negative_elbo"][0]
    assert page.locator(".legend li").all_inner_texts() == list(SENSORS)
    rows = [",".join(map(str, [number, *row[::-1]])) for number, row in enumerate([x[0, 0], *x[0]])]  # one too many
    (tmp_path / "own.csv").write_text("\n".join([",".join(["time", *SENSORS[::-1]]), *rows]))
    page.set_input_files("#file", tmp_path / "own.csv")
    page.locator("#result-content").wait_for()
    assert page.locator("#negative-elbo").inner_text() == f"{reading:,.1f}".replace("-", "−")
    assert 0 < float(page.locator("#p-value").inner_text()) <= 1
    drawn = """canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
        .filter((value, i) => i % 4 === 3 && value > 0).length"""
    assert all(page.locator(f"#{name}").evaluate(drawn) > 500 for name in ("picture", "seen", "reconstruction", "pad"))
    assert not re.search(r"\bimages?\b", page.locator("body").inner_text(), re.IGNORECASE)
    (tmp_path / "short.csv").write_text("\n".join(rows[:5]))
    page.set_input_files("#file", tmp_path / "short.csv")
    page.locator("#file-problem", has_text=f"Expected {STEPS} rows or more. Received: 5.").wait_for()


def test_other_models_have_no_buttons_for_conditions(visit):
    assert visit().locator("#conditions").is_hidden()


def test_problems_are_shown(browser, sites):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.route("**/model.tflite", lambda route: route.fulfill(status=404))
    page.goto(sites["float32"])
    page.wait_for_selector("#problem:not([hidden])")
    assert "answers 404" in page.inner_text("#problem")
    page.add_init_script("WebAssembly.validate = () => false")
    page.reload()
    page.wait_for_selector("#problem:not([hidden])")
    assert "no WebAssembly with SIMD" in page.inner_text("#problem")
    context.close()


# The programs of the documentation

#: npm's integrity of each package's tarball
TENSORFLOW_JS = {
    "@tensorflow/tfjs-core@4.9.0": (
        "sha512-1nYs9OA934eSI33eTvyCVJUEji2wnMXyZ3VK7l2iS/TPDFISI3ETyh286mW56LCihoniv8HH2MtOAQwo4Qhrdg=="
    ),
    "@tensorflow/tfjs-backend-cpu@4.9.0": (
        "sha512-AHIfI3iD1fyQgQKeoQmtkI3exPWRfOo+W0Ws/bxOdapTXcAYWGg0179t52j8XPDwsl8WopfaTINNgYNG6FnP3Q=="
    ),
    "@tensorflow/tfjs-tflite@0.0.1-alpha.10": (
        "sha512-/qmqsRBTg+XCWgNomJ/gdZIKFMpGiTEAwMhqk/7cOZEp/fTV69GuknOoSQjloYGWasQIDIriQO3bpi6T4PTEnA=="
    ),
}


def program(heading, language):
    """Return the only program in this language from a section of the documentation."""
    section = DOCS.read_text(encoding="utf-8").split(f"\n{heading}\n")[1].split("\n#")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return found


def drawn_by(browser, folder):
    """Return the image that `folder/index.html` draws on its only canvas."""
    server = Server(folder)
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_function("document.querySelector('canvas').width < 300", timeout=20_000)  # 300: an unused canvas
    found = picture(page, "canvas")
    page.close()
    server.stop()
    return found


def test_the_program_for_litert_js(browser, litert, files, tmp_path):
    for file in web.FILES:
        target = tmp_path / "node_modules" / file.package / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(litert / file.name)
    shutil.copy(files["float32"], tmp_path / "vae_float32.tflite")
    (tmp_path / "index.html").write_text(program("### LiteRT.js", "html"))
    wanted = as_bytes(load(files["float32"]).decode(np.zeros((1, LATENTS)))[0, ..., 0])
    assert np.abs(drawn_by(browser, tmp_path) - wanted).max() <= 1


@pytest.mark.slow
def test_the_program_for_tensorflow_js(browser, files, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine: install Node.js")
    command = ["npm", "pack", "--ignore-scripts", "--json", *TENSORFLOW_JS]
    packed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if packed.returncode:
        pytest.skip(f"npm couldn't fetch TensorFlow.js: {packed.stderr[-300:]}")
    for package, integrity in TENSORFLOW_JS.items():
        name, _, version = package.rpartition("@")
        tarball = tmp_path / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        digest = hashlib.sha512(tarball.read_bytes()).digest()
        assert f"sha512-{base64.b64encode(digest).decode()}" == integrity, package
        shutil.unpack_archive(tarball, tmp_path / "unpacked", filter="data")
        shutil.move(tmp_path / "unpacked" / "package", tmp_path / "node_modules" / name)
    shutil.copy(files["float32"].with_name("decoder_float32.tflite"), tmp_path)
    (tmp_path / "index.html").write_text(program("### TensorFlow.js", "html"))
    wanted = as_bytes(load(files["float32"]).decode(np.zeros((1, LATENTS)))[0, ..., 0])
    assert np.abs(drawn_by(browser, tmp_path) - wanted).max() <= 1


# The files


def test_the_page_is_complete(files, litert, tmp_path):
    index = web.write(files["int8"], tmp_path / "site", runtime=litert, title='Digits & "more"')
    assert index == tmp_path / "site" / "index.html"
    assert "<title>Digits &amp; &quot;more&quot;</title>" in index.read_text()
    assert json.loads((tmp_path / "site/manifest.webmanifest").read_text())["name"] == 'Digits & "more"'
    assert (tmp_path / "site/model.tflite").read_bytes() == files["int8"].read_bytes()
    assert not (tmp_path / "site/gpu.tflite").exists()
    assert "Apache License" in (tmp_path / "site/litert/LICENSE.txt").read_text()
    worker = (tmp_path / "site/sw.js").read_text()
    kept = json.loads(re.search(r"FILES = (\[.*\]);", worker)[1])
    found = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")}
    assert {*kept, "sw.js"} == found
    assert "@" not in worker.replace("@litertjs", "")
    for path in web.SITE.glob("*.*"):
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S*", path.read_text()) == [], path
    first = worker
    web.write(files["int8"], tmp_path / "site", runtime=litert, title='Digits & "more"')
    assert (tmp_path / "site/sw.js").read_text() == first
    web.write(files["float32"], tmp_path / "site", runtime=litert, title='Digits & "more"')
    assert (tmp_path / "site/sw.js").read_text() != first
    for_gpu = flatbuffer.read(tmp_path / "site/gpu.tflite")
    assert {name.rsplit("_", 1)[0] for name in for_gpu.signatures} == set(web.GPU_ENDPOINTS)
    assert "BITWISE_XOR" not in for_gpu.operators


def test_runtime_from_the_cache_or_from_node_modules(files, litert, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    web.cache().parent.mkdir(parents=True)
    web.cache().symlink_to(litert)
    web.write(files["int8"], tmp_path / "a")
    for file in web.FILES:
        target = tmp_path / "node_modules" / file.package / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(litert / file.name)
    web.write(files["int8"], tmp_path / "b", runtime=tmp_path / "node_modules")
    assert (tmp_path / "a/sw.js").read_text() == (tmp_path / "b/sw.js").read_text()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Function that replaces npm by a shell script (None: no npm), with an empty cache."""

    def npm(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is not None:
            (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin" if script else str(folder))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    return npm


OFFLINE = "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network request failed' >&2; exit 1"
OTHER = "echo x > litertjs-core-2.5.3.tgz; echo x > litertjs-wasm-utils-2.5.3.tgz"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, r"Expected npm.*install Node\.js, or name a folder.*--web-runtime DIR.*no npm on this machine"),
        (OFFLINE, r"npm couldn't download LiteRT\.js 2\.5\.3.*--web-runtime DIR.*ENOTFOUND; network request failed"),
        (OTHER, r"of @litertjs/core 2\.5\.3.*not used"),
    ],
    ids=["no npm", "offline", "another package"],
)
def test_without_the_runtime(files, tmp_path, npm, script, message):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("an earlier page")
    npm(script)
    with pytest.raises(ExportError, match=message) as error:
        web.write(files["int8"], tmp_path / "site")
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    assert not web.cache().exists()


def test_invalid_folders_are_refused(files, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.js").write_text("another version")
    with pytest.raises(ExportError, match=r"node_modules with @litertjs/core 2\.5\.3"):
        web.write(files["int8"], tmp_path / "site", runtime=tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"npm install @litertjs/core@2\.5\.3.*index\.js', which differs"):
        web.write(files["int8"], tmp_path / "site", runtime=tmp_path / "other")
    with pytest.raises(ExportError, match=r"new or empty folder.*contains 'index\.js'"):
        web.write(files["int8"], tmp_path / "other")
    with pytest.raises(ExportError, match="Received: the file"):
        web.write(files["int8"], tmp_path / "other" / "index.js")
    with pytest.raises(ExportError, match=r"Expected a \.tflite file"):
        web.write(tmp_path / "other" / "index.js", tmp_path / "site")
    assert {path.name for path in tmp_path.iterdir()} == {"other"}
