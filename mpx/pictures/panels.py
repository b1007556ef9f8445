"""Pictures of an Explanation `e`: heatmap, overlay, panel (one row), sheet (rows), animation (the mask forming).

Images are (...,3,H,W) and saliency is (...,1,H,W), floats in [0,1]. A value of saliency has the same colour everywhere (the
scale is 0..1, never stretched to a picture's own range), so any two pictures can be compared. The map is magma: perceptually
uniform, rising in luminance (van der Walt & Smith 2015, CC0). Small images are enlarged by a whole factor, not smoothed.
"""

import io
import math
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# 18 anchors, linear in between: a minimax fit that stays within 2/255 of matplotlib's magma
MAGMA = """000002 08061f 191140 301066 4a107b 61187f 782281 902a80 a9327c
           c13a75 d9466a ec585e f7715b fc8d63 feaa73 fdc589 fce1a2 fbfcbe"""
INK, FAINT, RULE, MARK, PAPER = "#1c1c22", "#77777f", "#e4e4e8", "#d9466a", "#ffffff"
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
TILE = 224  # pixels: least width of a picture in a panel


def colours(anchors: str = MAGMA) -> Tensor:
    """(256,3) in [0,1]: hex anchors, evenly spaced, joined by straight lines."""
    table = torch.tensor([list(bytes.fromhex(a)) for a in anchors.split()]) / 255
    return F.interpolate(table.T[None], 256, mode="linear", align_corners=True)[0].T


TABLE = colours()


def heatmap(saliency: Tensor) -> Tensor:
    """(...,1,H,W) -> (...,3,H,W): each value's own colour, whatever the other values are."""
    index = (saliency.nan_to_num().clamp(0, 1) * 255).round().long()
    return TABLE[index.squeeze(-3)].movedim(-1, -3)


def overlay(photo: Tensor, saliency: Tensor) -> Tensor:
    """(...,3,H,W): the photo in half-dark grey, with the saliency's colour shone onto it.

    A screen blend, 1-(1-photo)(1-light). Magma starts at black, so alpha follows saliency by itself: without saliency no
    light is added. The light is stronger on bright pixels, so that the photo's texture shows through the brightest spot.
    """
    grey = (photo * photo.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(-3, keepdim=True)
    return 1 - (1 - 0.5 * grey) * (1 - heatmap(saliency) * (0.45 + 0.55 * grey))


def fate(e) -> str:
    """What became of the evidence in `e.perturbed`."""
    return "kept" if e.game == "preservation" else "deleted"


def probability(p: float) -> str:
    return "<0.001" if 0 < p < 0.0005 else f"{p:.3f}"


def percent(a: float) -> str:
    return f"{100 * a:.1f} %"


def panel(e, i: int) -> Image.Image:
    """Row i as photo | saliency over photo | what the network saw at the end, with names, probabilities and scales."""
    nothing = "nothing kept" if fate(e) == "kept" else "all deleted"
    pictures = [picture(x) for x in (e.photos[i], overlay(e.photos[i], e.saliency[i]), e.perturbed[i])]
    before, after, reference = (float(p[i]) for p in (e.p_before, e.p_after, e.p_reference))
    captions = [  # left and right above the picture, left and right below its bar
        (e.classes[i], f"p {probability(before)}", e.images[i], ""),
        ("evidence", f"area {percent(float(e.area[i]))}", "0", "1"),
        (fate(e), f"p {probability(after)}", f"{nothing}: p {probability(reference)}", ""),
    ]
    h, cell = pictures[0].height, max(TILE, pictures[0].width)
    size = max(13, cell // 17)
    gap, bar, line = size, max(6, size // 2), round(1.5 * size)
    page = Image.new("RGB", (3 * cell + 4 * gap, h + bar + 2 * line + 2 * gap), PAPER)
    bars = meter(cell, bar, before), scale(cell, bar), meter(cell, bar, after, reference)
    for k, (image, strip, (above, number, below, end)) in enumerate(zip(pictures, bars, captions)):
        x, y = gap + k * (cell + gap), gap // 2
        write(page, (x, y, cell), above, number, size)
        page.paste(image, (x, y := y + line))
        y += h + gap // 2
        page.paste(strip, (x, y))
        write(page, (x, y + bar + gap // 4, cell), below, end, size - 2, FAINT)
    return page


def sheet(e, rows: list[int]) -> Image.Image:
    """The panels of these rows, one under the other."""
    return stack([panel(e, i) for i in rows])


def stack(images: list[Image.Image]) -> Image.Image:
    """Images of one size, one under the other."""
    width, height = images[0].size
    page = Image.new("RGB", (width, height * len(images)))
    for k, image in enumerate(images):
        page.paste(image, (0, k * height))
    return page


def views(e, i: int, most: int = 320, side: int = 56) -> dict[str, np.ndarray]:
    """What mpx.report.html shows of row i: JPEGs (bytes,) uint8, reduced to `most` pixels, and what was recorded.

    `frames` is the saliency at the F iterations, one under the other, about `side` pixels each: whole blocks of a JPEG,
    so that none bleeds into the next. Where the mask acts inside the network, no picture shows what it does.
    """
    pictures = {"photo": e.photos, "perturbed": e.perturbed, "complement": e.complement}
    pictures = pictures if e.complement is not None else {"photo": e.photos}
    found = {name: jpeg(_reduced(to_image(x[i]), most), 85) for name, x in pictures.items()}
    some = (
        torch.linspace(0, len(e.iterations) - 1, min(len(e.iterations), 100)).round().long()
    )  # a JPEG has no more lines than 65,535
    h, w = (8 * max(1, round(s * side / max(e.photos.shape[2:]) / 8)) for s in e.photos.shape[2:])
    strip = F.interpolate(e.frame_saliency[some, i].float(), (h, w), mode="area").round().byte()  # (F,1,h,w)
    found["frames"] = jpeg(Image.fromarray(strip.reshape(-1, w).numpy()))
    found = {name: np.frombuffer(encoded, np.uint8) for name, encoded in found.items()}
    return found | {"iterations": np.array(e.iterations)[some], "frame_p": e.frame_p[some, i].float().numpy()}


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """A tenth of a PNG's time and a quarter of its size; the PNG is in panels/."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def strips(e, i: int, frames: list[int]) -> Tensor:
    """(F,3,H,3W) uint8: photo | saliency over photo | perturbed at these recorded frames, without captions."""
    photos = to_bytes(e.photos[i]).expand(len(frames), -1, -1, -1)
    return torch.cat([photos, to_bytes(overlay(e.photos[i], e.frame_saliency[frames, i] / 255)), e.frames[frames, i]], -1)


def animation(e, i: int, most: int = 320) -> bytes:
    """GIF of row i: saliency over photo | perturbed, at every recorded iteration; endless, holding the last.

    The probability is that of the very picture shown, without jitter or noise. Pictures are reduced to `most` pixels, which
    keeps 24 frames near a megabyte.
    """
    last = e.iterations[-1]
    saliency = e.frame_saliency[:, i] / 255
    overlays, areas, pages = to_bytes(overlay(e.photos[i], saliency)), saliency.mean((1, 2, 3)).tolist(), []
    for f, iteration in enumerate(e.iterations):
        pictures = [picture(x, most) for x in (overlays[f], e.frames[f, i])]
        h, cell = pictures[0].height, max(TILE, pictures[0].width)
        size, gap, line = 14, 12, 22
        page = Image.new("RGB", (2 * cell + 3 * gap, h + 3 * gap + 2 * line), PAPER)
        write(page, (gap, gap // 2, cell), e.classes[i], f"area {percent(areas[f])}", size)
        write(page, (cell + 2 * gap, gap // 2, cell), fate(e), f"p {probability(float(e.frame_p[f, i]))}", size)
        for k, image in enumerate(pictures):
            page.paste(dither(image), (gap + k * (cell + gap), gap // 2 + line))
        y = line + h + gap
        page.paste(meter(page.width - 2 * gap, 4, iteration / max(1, last)), (gap, y))
        write(page, (gap, y + gap // 2, page.width - 2 * gap), f"iteration {iteration} of {last}", "", size - 2, FAINT)
        pages.append(page)
    return gif(pages, [600] + [140] * (len(pages) - 2) + [1600])


def gif(pages: list[Image.Image], milliseconds: list[int]) -> bytes:
    """One palette for all pages, nearest colours."""
    some = stack([pages[k * (len(pages) - 1) // 3] for k in range(4)])
    some = some.resize([s // 3 for s in some.size], Image.Resampling.NEAREST)  # a ninth, of all of the dither's places
    palette = some.quantize(256, method=Image.Quantize.MEDIANCUT)
    table = np.array(palette.getpalette()).reshape(-1, 3)
    table[table.min(1) >= min(248, table.min(1).max())] = 255  # the paper stays white
    palette.putpalette(table.flatten().tolist())
    first, *rest = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=milliseconds[: len(pages)], loop=0)
    return file.getvalue()


def dither(image: Image.Image) -> Image.Image:
    """Adds a Bayer pattern of +-5/255, so that few colours make no bands; it stands still, so that nothing flickers."""
    pattern = np.tile(BAYER, (-(-image.height // 4), -(-image.width // 4)))[: image.height, : image.width, None]
    return Image.fromarray((np.asarray(image) + (pattern - 7.5) * 0.7).clip(0, 255).astype(np.uint8))


def picture(x: Tensor, most: int | None = None) -> Image.Image:
    """(3,H,W) -> image; a small one is enlarged by a whole factor to TILE, with `most` a large one is reduced to it."""
    image = to_image(x)
    if most and max(image.size) > most:
        return _reduced(image, most)
    times = -(-TILE // max(image.size))
    return image.resize([times * s for s in image.size], Image.Resampling.NEAREST)


def _reduced(image: Image.Image, most: int) -> Image.Image:
    times = min(1, most / max(image.size))
    return image.resize([max(1, round(s * times)) for s in image.size], Image.Resampling.LANCZOS)


def to_bytes(x: Tensor) -> Tensor:
    return x if x.dtype == torch.uint8 else (x.nan_to_num().clamp(0, 1) * 255).round().byte()


def to_image(x: Tensor) -> Image.Image:
    return Image.fromarray(to_bytes(x).movedim(0, -1).contiguous().numpy())


def scale(width: int, height: int) -> Image.Image:
    """The overlay's colours from 0 to 1, as they look on a mid-grey photo."""
    ramp = torch.linspace(0, 1, width).expand(1, height, width)
    return to_image(overlay(torch.full((3, 1, 1), 0.5), ramp))


def meter(width: int, height: int, value: float, tick: float = math.nan) -> Image.Image:
    """A bar filled to `value` in [0,1], with a tick for comparison; a NaN is not drawn."""
    bar = Image.new("RGB", (width, height), RULE)
    if value > 0:
        bar.paste(INK, (0, 0, max(1, round(value * width)), height))
    if tick >= 0:
        x = round(tick * (width - 3))
        bar.paste(MARK, (x, 0, x + 3, height))
    return bar


def write(page: Image.Image, place: tuple, left: str, right: str, size: int, ink: str = INK):
    """Two texts on one line at place (x, y, width): the right one whole, the left one shortened to what is free."""
    x, y, width = place
    draw, font = ImageDraw.Draw(page), _font(size)
    end = draw.textlength(right, font=font)
    draw.text((x + width - end, y), right, fill=ink, font=font)
    left = shorten(drawable(left), width - end - (size if right else 0), lambda t: draw.textlength(t, font=font))
    draw.text((x, y), left, fill=ink, font=font)


_font = cache(lambda size: ImageFont.load_default(size=size))  # it is unpacked at every call


def drawable(text: str) -> str:
    """On one line and printable. Pillow's own font has no accents, so letters lose theirs; other scripts show as boxes."""
    folded = unicodedata.normalize("NFKD", " ".join(text.split()))
    return "".join(c for c in folded if c.isprintable() and not unicodedata.combining(c))


def shorten(text: str, width: float, length: Callable[[str], float] = len) -> str:
    """The text itself where it fits, else as much of its beginning as fits with an ellipsis."""
    if length(text[:1000]) <= width and len(text) <= 1000:
        return text
    text = text[:1000]
    while text and length(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
