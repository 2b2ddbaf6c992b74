"""The table of closed-form Kullback–Leibler divergences KL(q ‖ p) for pairs of families."""

from collections.abc import Callable
from typing import Any

_CLOSED_FORMS: dict[tuple[type, type], Callable[..., Any]] = {}


def register_kl(posterior: type, prior: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register `f(posterior, params, prior, condition) -> (B,)`, nats, as the closed form for a pair of families."""

    def register(f: Callable[..., Any]) -> Callable[..., Any]:
        _CLOSED_FORMS[posterior, prior] = f
        return f

    return register


def closed_form_kl(posterior: Any, prior: Any) -> Callable[..., Any] | None:
    """Return the closed form for this pair, or None. Without it, the rate is estimated as log q(z|x) − log p(z)."""
    return _CLOSED_FORMS.get((type(posterior), type(prior)))
