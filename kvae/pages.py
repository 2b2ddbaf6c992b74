"""Pages that need no network: one base template, one palette, one set of formatters."""

import importlib.resources
from collections.abc import Callable
from typing import Any

from kvae.arguments import decimal

BASE = "page.html.jinja"
UNKNOWN = "–"  # in place of a number


def render(package: str, template: str, formatters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """Render a page.

    Args:
        package: the package that contains the template, which extends `page.html.jinja`.
        template: name of its file.
        formatters: filters of the template besides `number` and `size`.
        **values: the template's variables.

    Example:

        >>> render("kvae", "page.html.jinja", {}).split()[0]
        '<!doctype'
    """
    import jinja2

    sources = {
        name: importlib.resources.files(place).joinpath(name).read_text(encoding="utf-8")
        for place, name in (("kvae", BASE), (package, template))
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "size": size, **formatters}
    return environment.get_template(template).render(**values)


def number(value: Any, digits: int = 0) -> str:
    """Format a number with a fixed number of digits after the point.

    Example:

        >>> number(-1234.56, 1), number(None)
        ('−1,234.6', '–')
    """
    return decimal(value, digits, ",") if isinstance(value, int | float) else UNKNOWN


def significant(value: float, count: int) -> str:
    """Format a number with `count` significant digits.

    Example:

        >>> significant(0.04512, 2), significant(1290.0, 2), significant(6e-7, 2)
        ('0.045', '1,300', '6.0e-07')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{count - 1}e}".split("e")
    if not -4 <= int(exponent) < 6:
        return f"{mantissa}e{exponent}"
    return f"{float(f'{mantissa}e{exponent}'):,.{max(0, count - 1 - int(exponent))}f}"


def size(count: int) -> str:
    """Format a number of bytes with three significant digits.

    Example:

        >>> size(12), size(95_147), size(1_854_465)
        ('12 bytes', '95.1 kB', '1.85 MB')
    """
    for unit, name in ((1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{significant(count / unit, 3)} {name}"
    return f"{count} bytes"
