"""Names under which the curves of an optimization are logged."""


def log_name(term: str) -> str:
    """Return the logged name of a curve: loss/total, loss/score, loss/<regularizer>, score/value or mask/area."""
    return {"value": "score/value", "area": "mask/area"}.get(term, f"loss/{term}")
