"""`kvae demo`."""

from pathlib import Path
from typing import Annotated

import typer

from kvae.cli.console import optional_steps, our_warnings, say, start_tensorflow
from kvae.cli.tables import show_export
from kvae.cli.train import check_target, describe


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("kvae-demo"),
) -> None:
    """The whole way on scikit-learn's embedded digits: train, score, draw, probe, export. About a minute, no network.

    Example: kvae demo --out kvae-demo
    """
    run, files = out / "run", out / "export"
    check_target(run, overwrite=True)
    start_tensorflow(context.obj)
    our_warnings()
    from kvae import plotting
    from kvae.export import export
    from kvae.training import Settings, train_run

    # Grey pixels: a learned variance draws them sharper than a Bernoulli, whose noise is meant for black and white.
    settings = Settings(source="digits", epochs=40, latent_dim=8, batch_size=64, likelihood="normal-learned")
    data = train_run(settings, run)
    model = describe(run, data, 64, context.obj)
    drawn = optional_steps(context.obj)
    with drawn("Not drawn: samples"):
        plotting.save(plotting.samples(model, n=100, seed=7), out / "samples.png")
    say("\nExporting, and running the files against Keras …\n")
    show_export(export(model, files, data), files)
    say(f"""
The report:   {run / "report.html"}
New digits:   {"not drawn" if drawn.failed else out / "samples.png"}
For an app:   {files / "decoder_int8.tflite"}
Everything:   {files / "vae_int8.tflite"}
Next:         kvae train mnist --latent-dim 2    (downloads MNIST, unless TFDS_DATA_DIR has it)""")
