"""A web page for a `.tflite` file: static files without server code; no image leaves the visitor's device.

    from kvae.export import web
    web.write("phone/vae_int8.tflite", "site")

View it with `python -m http.server -d site` at http://localhost:8000, or copy the folder to any static host. From the
second visit on, the page works offline if its address begins with https or is localhost. Browsers allow no service
workers at other addresses, so a phone requires https for this.
"""

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePath
from typing import NamedTuple

from ai_edge_litert import schema_py_generated as schema

from kvae.export import flatbuffer
from kvae.export.errors import ExportError
from kvae.export.runtime import Model, load
from kvae.files import atomic_directory

__all__ = ["write"]

VERSION = "2.5.3"
SITE = Path(__file__).parent / "site"
MODEL, GPU_MODEL, RUNTIME = "model.tflite", "gpu.tflite", "litert"
#: endpoints that a GPU may run; its integer arithmetic, and therefore its random numbers, are wrong
GPU_ENDPOINTS = ("decode", "encode", "reconstruct", "interpolate")
NPM_SECONDS = 600
CORE, UTILS = "@litertjs/core", "@litertjs/wasm-utils"
#: npm's integrity of each package's tarball
PACKAGES = {
    CORE: "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    UTILS: "sha512-4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
}
#: sha256 of the files of the runtime, by package and path
_CHECKSUMS = {
    CORE: {
        "dist/index.js": "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
        # LiteRT.js selects the build with relaxed SIMD or the build without it.
        "wasm/litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
        "wasm/litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
        "wasm/litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
        "wasm/litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    },
    UTILS: {"dist/index.js": "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2"},
}


class _File(NamedTuple):
    """A file of the runtime: its package, its path there, and its checksum."""

    package: str
    path: str
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file on the page and in the cache."""
        return "wasm-utils.js" if self.package == UTILS else PurePath(self.path).name


FILES = [_File(package, *file) for package, files in _CHECKSUMS.items() for file in files.items()]


def write(
    model_path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    runtime: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Path:
    """Write the page for an exported `.tflite` file and return the path of its `index.html`.

    The page contains the model, its signatures for GPUs (not for int8 weights), and LiteRT.js (19 MB; a browser loads
    half of it), which npm downloads once into `cache()`. If anything fails, `directory` doesn't change.

    Args:
        model_path: a file that `kvae.export` made, with signatures for fixed batch sizes.
        directory: target folder; created, or replaced if it contains only an earlier page.
        runtime: a folder with LiteRT.js for machines without npm: a copy of the cache, or a `node_modules`.
        title: title of the page; None uses the name of the training data.

    Raises:
        ExportError: if the file is not from kvae or doesn't draw images, `directory` contains other files, or LiteRT.js
            is not available.
    """
    directory, model_path = Path(directory), Path(model_path)
    check_target(directory)
    try:
        model = load(model_path)
    except (OSError, ValueError) as error:
        raise ExportError(str(error)) from error
    if "decode" not in model.info["signatures"]:
        raise ExportError(f"Expected a model that draws images. Received: '{model_path}', {model.info['kind']}")
    if model.info["event"] not in ("image", "series"):
        raise ExportError(f"Expected a model of images or series for the page. Received: '{model_path}', of rows")
    if any(
        spec["dtype"] == "uint8"
        for signature in model.info["signatures"].values()
        for spec in (*signature["inputs"].values(), *signature["outputs"].values())
    ):
        raise ExportError(
            f"Expected a file whose images are floats: export with io='float32'. Received: '{model_path}'"
        )
    if not model.batch_sizes:
        raise ExportError(
            f"Expected signatures for fixed batch sizes, because browsers require them: export with "
            f"batch_sizes=(1, 16). Received: '{model_path}' with any batch size"
        )
    files = _cached() if runtime is None else _read(Path(runtime))
    with atomic_directory(directory) as new:
        shutil.copytree(SITE, new, dirs_exist_ok=True)
        (new / MODEL).write_bytes(model_path.read_bytes())
        if for_gpu := _for_gpu(model):
            (new / GPU_MODEL).write_bytes(for_gpu)
        for name, data in files.items():
            (new / RUNTIME / name).write_bytes(_adapted(name, data))
        _fill_in(new, model, title)
    return directory / "index.html"


def cache() -> Path:
    """Return the folder of the LiteRT.js files: `$XDG_CACHE_HOME/kvae/litertjs-…`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvae" / f"litertjs-{VERSION}"


def check_target(directory: Path) -> None:
    """Raise an ExportError if `directory` contains anything except an earlier page."""
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"Expected a folder for the page. Received: the file '{directory}'")
    own = {*(path.name for path in SITE.iterdir()), MODEL, GPU_MODEL}
    others = sorted(path.name for path in directory.iterdir() if path.name not in own) if directory.exists() else []
    if others:
        raise ExportError(
            f"Expected a new or empty folder for the page, or an earlier page, which is replaced. Received: "
            f"'{directory}', which contains '{others[0]}'"
        )


def _cached() -> dict[str, bytes]:
    """Read the runtime's files from the cache; npm downloads missing or damaged files."""
    try:
        return _read(cache())
    except ExportError:
        files = _fetch()
    # A read-only cache doesn't prevent the page.
    with contextlib.suppress(OSError), atomic_directory(cache()) as new:
        for name, data in files.items():
            (new / name).write_bytes(data)
    return files


def _read(folder: Path) -> dict[str, bytes]:
    """Read the runtime's files by name, from a folder like the cache or like `node_modules`."""
    files = {}
    for file in FILES:
        places = (folder / file.name, folder / file.package / file.path)
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise ExportError(
                f"Expected a folder with LiteRT.js: a node_modules with @litertjs/core {VERSION}, or a copy of "
                f"'{cache()}' from another machine. Received: '{folder}' without {file.package}/{file.path}"
            )
        files[file.name] = place.read_bytes()
        if hashlib.sha256(files[file.name]).hexdigest() != file.sha256:
            raise ExportError(
                f"Expected LiteRT.js {VERSION}, the tested version: npm install "
                f"@litertjs/core@{VERSION}. Received: '{place}', which differs from it"
            )
    return files


def _fetch() -> dict[str, bytes]:
    """Download the runtime's files with npm; packages are checked before they are read."""
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"Expected npm to download LiteRT.js {VERSION} for the page: install Node.js, or name a folder with "
            f"LiteRT.js, such as a copy of '{cache()}' from another machine (--web-runtime DIR). Received: no npm on "
            "this machine"
        )
    with tempfile.TemporaryDirectory() as folder:
        packages = [f"{name}@{VERSION}" for name in PACKAGES]
        retries = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000"]
        command = [npm, "pack", "--ignore-scripts", "--loglevel=error", *retries, *packages]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=NPM_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"npm didn't download LiteRT.js {VERSION} within {NPM_SECONDS} s: try again") from error
        if done.returncode:
            raise ExportError(
                f"npm couldn't download LiteRT.js {VERSION}: try again online, or name a folder with LiteRT.js "
                f"(--web-runtime DIR). Received: {_npm_reason(done.stderr)}"
            )
        files = {}
        for package, integrity in PACKAGES.items():
            archive = Path(folder, f"{package.lstrip('@').replace('/', '-')}-{VERSION}.tgz")
            found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != integrity:
                raise ExportError(
                    f"Expected {integrity[:20]}… of {package} {VERSION}, the tested package. Received: {found[:20]}…; "
                    "the package from npm is not used"
                )
            with tarfile.open(archive) as tar:
                for file in FILES:
                    if file.package == package:
                        member = tar.extractfile(f"package/{file.path}")
                        assert member is not None, file.path  # the checksum guarantees the file
                        files[file.name] = member.read()
        return files


def _npm_reason(stderr: str) -> str:
    """Return the first two lines of npm's message, a code and a sentence, as one line."""
    lines = [line.removeprefix("npm").lstrip() for line in stderr.splitlines()]
    lines = [line.removeprefix(prefix) for line in lines for prefix in ("error ", "ERR! ") if line.startswith(prefix)]
    return "; ".join(lines[:2])[:300] or "no reason given"


def _adapted(name: str, data: bytes) -> bytes:
    """Return the file for the page: with a relative import, because there is no bundler, and without source map."""
    if name not in ("index.js", "wasm-utils.js"):
        return data
    text = data.decode().replace('"@litertjs/wasm-utils"', '"./wasm-utils.js"').partition("//# sourceMappingURL")[0]
    note = f"// LiteRT.js {VERSION}, Apache License 2.0 (LICENSE.txt); kvae changed the import and the source map.\n"
    return (note + text).encode()


def _for_gpu(model: Model) -> bytes | None:
    """Return a file of the signatures for GPUs; None for int8 weights, because GPUs then draw other images."""
    file = flatbuffer.Editable(model.path.read_bytes())
    if any(tensor.type == schema.TensorType.INT8 for subgraph in file.model.subgraphs for tensor in subgraph.tensors):
        return None
    spec = model.info["signatures"]
    file.arrange(
        [
            flatbuffer.Named(f"{name}_{size}", tuple(spec[name]["inputs"]), tuple(spec[name]["outputs"]))
            for name in GPU_ENDPOINTS
            if name in spec
            for size in sorted(model.batch_sizes)
        ]
    )
    return bytes(file)


def _fill_in(page: Path, model: Model, title: str | None) -> None:
    """Write the model's name into the page, and the list of files with a version into its service worker."""
    data = model.info.get("data")
    kind = "An autoencoder" if model.info["kind"] == "autoencoder" else "A VAE"
    title = title or (f"{kind} of {data}" if data else kind)
    gpu = GPU_MODEL if (page / GPU_MODEL).exists() else ""
    if model.info["event"] == "series":
        index = page / "index.html"
        index.write_text(_of_series(index.read_text(encoding="utf-8")), encoding="utf-8")
    _replace(page / "index.html", {"@TITLE@": html.escape(title), "@FILE@": html.escape(model.path.name), "@GPU@": gpu})
    _replace(page / "manifest.webmanifest", {'"@TITLE@"': json.dumps(title)})
    names = sorted(path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file())
    version = hashlib.sha256()
    for name in names:
        version.update(name.encode() + hashlib.sha256((page / name).read_bytes()).digest())
    kept = [name for name in names if name != "sw.js"]
    _replace(page / "sw.js", {"@VERSION@": version.hexdigest()[:16], '["@FILES@"]': json.dumps(kept)})


def _of_series(page: str) -> str:
    """Return the page with "series" instead of "image" and "images" in its texts and labels.

    Example:

        >>> _of_series('<h2 id="new-images">New images</h2><button>Save image</button>')
        '<h2 id="new-images">New series</h2><button>Save picture</button>'
    """
    page = (
        page.replace("Save image", "Save picture")
        .replace("Share image", "Share picture")
        .replace("an image", "a series")
    )

    def in_series(text: re.Match[str]) -> str:
        return re.sub(r"\bimages?\b", "series", re.sub(r"\bImages?\b", "Series", text[0]))

    return re.sub(r'>[^<]+<|aria-label="[^"]*"', in_series, page)


def _replace(path: Path, values: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    path.write_text(text, encoding="utf-8")
