"""`kvae demo`."""

from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import optional_steps, our_warnings, say, start_tensorflow
from kvae.cli.options import check_target
from kvae.cli.tables import describe, show_export


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("kvae-demo"),
) -> None:
    """Train, score, plot, probe and export a model of scikit-learn's digits (about a minute, offline).

    Example: kvae demo --out kvae-demo
    """
    run, files = out / "run", out / "export"
    check_target(run, overwrite=True)
    start_tensorflow(context.obj)
    our_warnings()
    from kvae import plotting
    from kvae.export import export
    from kvae.training import Settings, train_run

    # A learned variance gives sharper grey pixels than a Bernoulli likelihood, which is meant for black and white.
    settings = Settings(source="digits", epochs=40, latent_dim=8, batch_size=64, likelihood="normal-learned")
    data = train_run(settings, run)
    model = describe(run, data, 64, context.obj)
    steps = optional_steps(context.obj)
    with steps("Not drawn: samples"):
        plotting.save(plotting.samples(model, n=100, seed=7), out / "samples.png")
    say("\nExporting the model and comparing the files with Keras …\n")
    show_export(export(model, files, data), files)
    say(f"""
Report:      {run / "report.html"}
New digits:  {"not drawn" if steps.failed else out / "samples.png"}
Decoder:     {files / "decoder_int8.tflite"}
Whole model: {files / "vae_int8.tflite"}
Next:        kvae train mnist --latent-dim 2    (downloads MNIST, unless TFDS_DATA_DIR has it)""")
