"""HTML of an explanation in a notebook: the panel of each row, and its mask as it formed under a slider."""

from base64 import b64encode

from mpx.pictures.base import PicturedExplanation
from mpx.pictures.encoding import encode_jpeg, reduce_image, to_image
from mpx.pictures.panel import draw_panel
from mpx.pictures.snapshots import evolution_strips

MAX_ROWS = 8
MAX_WIDTH = 480  # pixels of a strip
MOVE = "[...this.parentElement.nextElementSibling.children].forEach((f, k) => (f.hidden = k != this.value))"


def explanation_html(explanation: PicturedExplanation) -> str:
    """Return the first MAX_ROWS rows as HTML without names: what comes from files is in pictures alone."""
    rows = range(len(explanation.classes))
    parts = [_row_html(explanation, row) for row in rows[:MAX_ROWS]]
    more = [f"<p>{len(rows) - MAX_ROWS} more rows: panel(row) and animation(row) draw one.</p>"] * (len(rows) > MAX_ROWS)
    return "\n".join(parts + more)


def _row_html(explanation: PicturedExplanation, row: int) -> str:
    panel = _image(encode_jpeg(draw_panel(explanation, row), 90), "panel")
    if not explanation.is_learnt:
        return f"<div>{panel}</div>"
    iterations = explanation.iterations
    frames = []
    for iteration, strip in zip(iterations, evolution_strips(explanation, row, range(len(iterations)))):
        picture = _image(encode_jpeg(reduce_image(to_image(strip), MAX_WIDTH), 80), f"iteration {iteration}")
        hidden = "" if iteration == iterations[-1] else " hidden"
        frames.append(f"<figure{hidden} style='margin:0'>{picture}<figcaption>iteration {iteration}</figcaption></figure>")
    last = len(iterations) - 1
    slider = f'<input type="range" min="0" max="{last}" value="{last}" oninput="{MOVE}" aria-label="iteration">'
    return f"<div>{panel}<div>{slider}</div><div>{''.join(frames)}</div></div>"


def _image(data: bytes, text: str) -> str:
    return f'<img src="data:image/jpeg;base64,{b64encode(data).decode()}" alt="{text}">'
