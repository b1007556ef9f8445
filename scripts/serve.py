"""Paint a mask and see the network's answer: python scripts/serve.py run=outputs/a [port=0]

Serves a page to browsers of this machine alone (127.0.0.1). Its address holds a token, without which nothing is answered.
Ctrl-C ends it. The photos, the network and the perturbation are those of the run, which stays as it is.
"""

import json
import sys
from base64 import b64encode
from functools import partial
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import torch
from PIL import Image

from mpx import Run, load
from mpx.cli.arguments import answer_help
from mpx.config_errors import run_error_sentence
from mpx.config_plan import stored_parts
from mpx.learning.objective import Objective
from mpx.masks.evidence import evidence_of
from mpx.pictures.colours import ORANGE, as_rgb
from mpx.pictures.encoding import encode_png, to_image
from mpx.runs.stored_rows import prepare_stored

PAGE = Path(__file__).with_name("serve.html")
SOURCES = ("style", "script")  # that the page may have


class Painter:
    """The rows of a run under any mask; its classifier is frozen meanwhile."""

    def __init__(self, run: Run):
        self.run = run
        self.prepared: dict[int, Objective] = {}  # the row that was answered last
        self.method, self.classifier, items, self.target = stored_parts(run.folder)
        self.items = {item.name: item for item in items}

    def answer(self, index: int, painted: bytes) -> dict[str, Any]:
        """Return the network's answers where the painted share of each pixel, a byte, is taken away.

        Without `painted` it is the run's evidence, and the photo and this evidence are returned as pictures, too.
        """
        stored = self.run.row(index)
        if index not in self.prepared:
            item = self.items[stored["image"]]
            self.prepared = {index: prepare_stored(self.method, self.classifier, item, stored, self.target)[0]}
        objective = self.prepared[index]
        if not objective.perturbation.masks_pixels:
            raise ValueError("this run masks no pixels, so none can be painted: choose a run with another perturbation")
        own = (evidence_of(torch.from_numpy(stored["mask"]).float(), stored["game"]) * 255).round().byte()  # (H,W)
        if painted and len(painted) != own.numel():
            raise ValueError(f"{len(painted)} bytes are no mask of {own.shape[0]}x{own.shape[1]} pixels")
        evidence = (torch.frombuffer(bytearray(painted), dtype=torch.uint8).view_as(own) if painted else own) / 255
        seen, output = objective.evaluate((1 - evidence[None, None]).to(objective.images))
        values = objective.value_before, objective.task.value(output, objective.prepared_targets)
        before, now = (objective.task.format(float(value)) for value in values)
        answers = [f"{a.name} {objective.task.format(a.value)}" for a in objective.top_answers(output)[0]]
        text = f"{stored['class']}: {before} before, {now} without {100 * evidence.mean():.1f} % of the photo"
        pictures = {"seen": to_image(as_rgb(seen[0].cpu(), self.classifier.bands))}
        if not painted:
            photo = to_image(as_rgb(objective.images[0].cpu(), self.classifier.bands))
            mask = Image.new("RGB", photo.size, ORANGE)
            mask.putalpha(Image.fromarray(own.numpy()))
            pictures |= {"photo": photo, "mask": mask}
        urls = {name: f"data:image/png;base64,{b64encode(encode_png(x)).decode()}" for name, x in pictures.items()}
        return {"text": text, "answers": answers, **urls}


class Handler(BaseHTTPRequestHandler):
    """Answers /TOKEN/, /TOKEN/rows and /TOKEN/row/N, and 404 to all else."""

    timeout = 10  # seconds without a byte

    def __init__(self, painter: Painter, token: str, *arguments: Any):
        self.painter, self.token = painter, token
        super().__init__(*arguments)

    def do_GET(self) -> None:
        token, _, path = self.path[1:].partition("/")
        if not compare_digest(token.encode(), self.token.encode()):
            return self.send_error(404)
        kind, answer = "application/json", ""
        try:
            if not path:
                kind, answer = "text/html; charset=utf-8", PAGE.read_text("utf-8").replace("NONCE", token)
            elif path == "rows":
                answer = json.dumps([f"{row['image']}: {row['class']}" for row in self.painter.run.rows])
            else:
                painted = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 2**26))
                answer = json.dumps(self.painter.answer(int(path.removeprefix("row/")), painted))
        except (ValueError, LookupError, OSError) as error:
            answer = json.dumps({"text": f"{error}", "answers": []})
        self.send_response(200)
        parts = ("default-src 'none'", "img-src data:", "connect-src 'self'", *(f"{x}-src 'nonce-{token}'" for x in SOURCES))
        for header in (("Content-Type", kind), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store")):
            self.send_header(*header)
        self.send_header("Content-Security-Policy", "; ".join(parts))
        self.end_headers()
        self.wfile.write(answer.encode())

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: paths hold the token."""


def main(arguments: list[str]) -> None:
    given = {"run": "", "port": "0"} | dict(argument.partition("=")[::2] for argument in arguments)
    if given.keys() - {"run", "port"} or not given["port"].isdigit():
        sys.exit(f"{' '.join(arguments)}: the options are run=outputs/<name> and port=, a number")
    try:
        painter, token = Painter(load(given["run"])), token_urlsafe(16)
        handler = partial(Handler, painter, token)
        with painter.classifier.frozen(), HTTPServer(("127.0.0.1", int(given["port"])), handler) as server:
            print(f"paint at http://127.0.0.1:{server.server_port}/{token}/ (Ctrl-C ends it)", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if sentence := run_error_sentence(error, {}):
            sys.exit(sentence)
        raise


if __name__ == "__main__":
    answer_help(__doc__)
    main(sys.argv[1:])
