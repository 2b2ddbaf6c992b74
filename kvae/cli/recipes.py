"""`kvae recipes`."""

import re
from collections.abc import Callable
from typing import Any

import typer

from kvae.cli.console import say, start_tensorflow, table


def summary(recipe: Callable[..., Any]) -> str:
    """Return the first line of the recipe's docstring, without the addresses of papers."""
    return re.sub(r"[,;]? (https://|arXiv:)[^\s,;)]+", "", (recipe.__doc__ or "").strip().splitlines()[0])


def recipes(context: typer.Context) -> None:
    """List the published variants for `kvae train SOURCE --recipe NAME`.

    Example: kvae recipes
    """
    start_tensorflow(context.obj)
    from kvae import recipes

    table(["recipe", "description"], [[name, summary(getattr(recipes, name))] for name in recipes.__all__])
    say("Example:  kvae train digits --recipe beta_vae")
