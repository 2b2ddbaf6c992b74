"""`kvae demo`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kvae.cli.console import optional_steps, our_warnings, say, start_tensorflow
from kvae.cli.options import check_target
from kvae.cli.tables import describe, show_directions, show_export

FACTORS = "smile", "tilt", "turn"  # directions of the demo of faces
SIDE = 32  # of the faces
SHOWN = {"skin": -0.6, "hair_color": -0.4, "background": 0.6}  # factors of the face that is turned


class Demo(StrEnum):
    """Datasets of the demo that need no download."""

    digits = "digits"
    faces = "faces"


#: settings by dataset. A learned variance gives sharper pixels than a Bernoulli likelihood, meant for black and white.
SETTINGS: dict[Demo, dict[str, Any]] = {
    Demo.digits: {"epochs": 40, "latent_dim": 8, "batch_size": 64, "likelihood": "normal-learned"},
    Demo.faces: {
        "epochs": 40,
        "latent_dim": 32,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "size": SIDE,
        "likelihood": "normal-learned",
        "fit_prior": "mixture",
    },
}


def demo(
    context: typer.Context,
    source: Annotated[Demo, typer.Argument(help="Dataset: digits of scikit-learn, or rendered faces.")] = Demo.digits,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("kvae-demo"),
) -> None:
    """Train, score, plot, probe and export a small model, offline: digits take about a minute, faces four.

    Digits show a model from training to export. The prior of the faces is fitted to their latents after training, and
    directions in latent space turn a smile and a head.

    Example: kvae demo faces --out kvae-faces
    """
    run, files = out / "run", out / "export"
    check_target(run, overwrite=True)
    start_tensorflow(context.obj)
    our_warnings()
    from kvae import plotting
    from kvae.export import export
    from kvae.training import Settings, train_run

    data = train_run(Settings(source=source.value, **SETTINGS[source]), run)
    model = describe(run, data, 64, context.obj)
    steps = optional_steps(context.obj)
    with steps("Not drawn: samples"):
        plotting.save(plotting.image_grid(model.generate(60, seed=7), columns=12), out / "samples.png")
    directions = _of_faces(model, out, steps) if source is Demo.faces else []
    say("\nExporting the model and comparing the files with Keras …\n")
    show_export(export(model, files, data, directions=directions), files)
    whole, decoder = (
        next(path for path in (files / f"{kind}_int8.tflite", files / f"{kind}_float32.tflite") if path.is_file())
        for kind in ("vae", "decoder")
    )
    say(f"""
Report:      {run / "report.html"}
New images:  {"not drawn" if steps.failed else out / "samples.png"}
Decoder:     {decoder}
Whole model: {whole}
Next:        kvae train mnist --latent-dim 2    (downloads MNIST, unless TFDS_DATA_DIR has it)""")


def _of_faces(model: Any, out: Path, steps: Any) -> list[Any]:
    """Find the directions of some factors of faces, and draw `directions.png`."""
    from kvae import data, features, plotting

    faces, held_out = data.faces(4000, SIDE, seed=1), data.faces(1000, SIDE, seed=2)
    found = []
    for name in FACTORS:
        column = faces.names.index(name)
        pairs = [(part.images, (part.factors[:, column] > 0).astype("int64")) for part in (faces, held_out)]
        found.append(features.attribute_direction(model, pairs[0], 1, name, held_out=pairs[1]))
    show_directions(found)
    (shown,) = data.render_faces(size=SIDE, **SHOWN)
    with steps("Not drawn: directions"):
        plotting.save(plotting.directions(model, shown, found), out / "directions.png")
    return found
