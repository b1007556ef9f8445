"""scripts/serve.py: the network's answers under a painted mask, for who knows the token, in a browser, too."""

import json
import runpy
import shutil
import threading
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from planted import SQUARE

from mpx import run

SCRIPT = Path(__file__).parents[2] / "scripts" / "serve.py"


@pytest.fixture
def served(folder):
    """(run, address) of a run of two photos while it is served."""
    finished = run(*SQUARE, "images=photos", "limit=2", "pictures=none", "metric=[]", "logger=[]", name="a")
    script = runpy.run_path(str(SCRIPT))
    painter = script["Painter"](finished)
    with (
        painter.classifier.frozen(),
        HTTPServer(("127.0.0.1", 0), partial(script["Handler"], painter, "secret")) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield finished, f"http://127.0.0.1:{server.server_port}/secret/"
        server.shutdown()
        thread.join()


def test_a_painted_mask_is_answered(served):
    finished, address = served

    def ask(row, painted=b""):
        return json.loads(urlopen(f"{address}row/{row}", painted).read())

    assert json.loads(urlopen(f"{address}rows").read()) == ["p0: checker board", "p1: checker board"]
    own, row = ask(1), finished.rows[1]
    assert own["text"].startswith(f"checker board: p {row['value_before']:.3f} before, p {row['value_after']:.3f} without")
    assert own["photo"].startswith("data:image/png;base64,") and own["mask"] != own["photo"] != own["seen"]
    nothing, square = ask(1, bytes(32 * 32)), np.zeros((32, 32), np.uint8)
    square[8:16, 16:24] = 255  # where the evidence is
    assert f"before, p {row['value_before']:.3f} without 0.0 %" in nothing["text"] and "photo" not in nothing
    assert nothing["seen"] == own["photo"] and len(nothing["answers"]) == 2
    assert float(ask(1, square.tobytes())["text"].split()[6]) < 0.2 < row["value_before"]
    assert ask(0, b"12")["text"] == "2 bytes are no mask of 32x32 pixels" and not ask(7)["answers"]


def test_nobody_without_the_token_is_answered(served):
    address = served[1]
    for path in ("", "rows", "wrong/", "wrong/rows", "secre/rows", "secret2/rows"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(address.removesuffix("secret/") + path)
    answer = urlopen(address)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"] and "NONCE" not in answer.read().decode()


def test_the_page_paints(served):
    api, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if not chromium:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page, faults = browser.new_page(), []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(served[1])

        def text_with(words):
            for _ in range(200):
                if words in page.inner_text("#text"):
                    return page.inner_text("#text")
                page.wait_for_timeout(50)
            raise AssertionError(page.inner_text("#text") + str(faults))

        text_with("without")
        page.click("#clear")
        before = text_with(" 0.0 %").split()[3]
        box = page.query_selector("#paint").bounding_box()
        page.mouse.move(box["x"] + 20 / 32 * box["width"], box["y"] + 12 / 32 * box["height"])  # the square's centre
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(500)
        assert float(page.inner_text("#text").split()[6]) < 0.5 < float(before)
        browser.close()
    assert not faults
