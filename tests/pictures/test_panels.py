"""Laws of the pictures: one value one colour, seen on any photo; texts fit; the animation is whole."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from mpx.pictures.animation import animation_webp
from mpx.pictures.colours import overlay, overlay_two
from mpx.pictures.encoding import TILE, to_tile, to_uint8
from mpx.pictures.panel import draw_panel, draw_sheet, draw_thumbnail_panel, panel_layout
from mpx.pictures.text import draw_text, drawable, format_percent, shorten
from mpx.runs.tables import row_values


def test_a_value_has_its_colour_whatever_the_other_values_are():
    low, full = torch.full((1, 4, 4), 0.3), torch.linspace(0, 1, 16).view(1, 4, 4).clone()
    full[0, 0, 0] = 0.3
    photo = torch.rand(3, 4, 4)
    assert torch.equal(overlay(photo, low)[:, 0, 0], overlay(photo, full)[:, 0, 0])
    assert torch.allclose(overlay(photo, torch.stack([low, full]))[1], overlay(photo, full), atol=1e-6)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_saliency_is_seen_on_dark_and_on_bright_photos(shade):
    """Without it the photo is grey, however dark it is; the more there is, the more colour, in steps that can be seen."""
    saliency = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(-1, 1, 64, 64)
    shown = overlay(torch.full((3, 64, 64), shade), saliency)[..., 0, 0]
    colour = shown.amax(1) - shown.amin(1)
    assert colour[0] == 0 and shown[0, 0] >= 0.3 and colour[-1] > 0.5
    assert (colour.diff() > 0.04).all()


def test_a_line_goes_round_what_is_at_least_half():
    photo, saliency = torch.full((3, 160, 160), 0.5), torch.zeros(1, 160, 160)
    saliency[:, 20:60, 30:70] = 0.5
    image = overlay(photo, saliency)
    without = overlay(photo[:, :100, :100], saliency[:, :100, :100])  # smaller than LEAST_SIDE
    is_white, is_black = ((image == shade).all(0) for shade in (1, 0))
    white, black = torch.zeros(160, 160, dtype=torch.bool), torch.zeros(160, 160, dtype=torch.bool)
    white[20:60, 30:70], black[19:61, 29:71] = True, True
    black &= ~white
    white[21:59, 31:69] = False
    assert torch.equal(is_white, white) and torch.equal(is_black, black)
    assert not (without == 1).any() and torch.equal(without[:, 40, 40], image[:, 40, 40])


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (480, 480), (100, 333), (333, 100), (1, 9)])
def test_panels_of_any_size_show_each_pixel_of_three_pictures(explanation, size):
    e = explanation(size)
    page = draw_panel(e, 0)
    tile = to_tile(e.images[0])
    assert max(tile.size) >= TILE and page.width > 3 * tile.width and page.height > tile.height
    times = tile.width // size[1]
    assert tile.size == (times * size[1], times * size[0])
    assert torch.equal(to_uint8(e.images[0])[:, 0, 0], torch.tensor(tile.getpixel((0, 0))))


def test_names_of_any_kind_are_drawn(explanation):
    names = ["a" * 3000, "日本語のとても長いクラス名" * 9, "crème brûlée\nà la carte", "\udcff\x00\u202e", "", "قطة 👩‍🚀"]
    e = explanation((32, 32), names=[f"{k}-x" for k in range(len(names))], classes=names)
    page = draw_sheet(e, range(len(names)))
    assert page.height == sum(draw_panel(e, i).height for i in range(len(names)))
    assert animation_webp(e, 1)
    assert drawable("crème\n brûlée") == "creme brulee"


@pytest.mark.parametrize("width", [0, 20, 90, 200])
def test_a_shortened_text_fits_and_a_short_one_is_left_alone(width):
    font, draw = ImageFont.load_default(size=14), ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def length(text):
        return draw.textlength(text, font=font)

    for text in ("tabby, tabby cat, striped and rather large", "x", "W" * 2000):
        short = shorten(text, width, length)
        assert length(short) <= max(width, length("…"))
        assert (short == text) if length(text[:100]) <= width else (short.endswith("…") and text.startswith(short[:-1]))


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
def test_an_animation_has_every_frame_loops_and_holds_the_last(explanation, game):
    e = explanation(game=game, frames=7)
    film = Image.open(io.BytesIO(animation_webp(e, 1)))
    assert film.n_frames == 7 and film.info["loop"] == 0
    assert min(film.convert("RGB").getpixel((1, 1))) >= 254  # the paper is white
    film.seek(6)
    film.load()
    assert film.info["duration"] >= 1500


def test_an_animation_ends_with_the_panel_s_area(explanation, monkeypatch):
    """And that of results.csv: frames are rounded to bytes, whose mean may be another tenth of a percent."""
    e, texts = explanation((64, 64)), []
    e.mask[1] = 1 - 0.0019  # of 255 none
    for room in ("animation", "panel"):
        monkeypatch.setattr(f"mpx.pictures.{room}.draw_text", lambda page, place, left, right, *rest: texts.append(right))
    e.frame_evidence[-1, 1] = 0
    animation_webp(e, 1)
    draw_panel(e, 1)
    shown = [text.split(" ", 1)[1] for text in texts if text.startswith(("area", "mask"))]
    assert shown[-2:] == ["0.2 %", "0.2 %"] == [format_percent(row_values(e, 1)["area"])] * 2


def test_what_does_not_change_does_not_flicker(explanation):
    e = explanation((64, 64), frames=6)
    e.frame_evidence[:], e.frames[:] = 0, e.frames[:1]
    film = Image.open(io.BytesIO(animation_webp(e, 0)))
    pages = []
    for k in range(6):
        film.seek(k)
        pages.append(np.asarray(film.convert("RGB").crop((20, 40, 200, 200)), float))
    assert all(np.abs(page - pages[0]).mean() < 1.0 for page in pages)  # of 255


def test_the_animation_says_what_was_recorded(explanation, monkeypatch):
    e, texts = explanation(steps=30, frames=4), []
    monkeypatch.setattr(
        "mpx.pictures.animation.draw_text", lambda page, place, left, right, *rest: texts.append((left, right))
    )
    animation_webp(e, 1)
    assert [left for left, _ in texts if "iteration" in left] == [f"iteration {k} of 30" for k in (0, 10, 20, 30)]
    seen = [right for _, right in texts if right.startswith("p ")]
    assert seen == [f"p {p:.3f}" for p in e.frame_values[:, 1].tolist()]


def test_an_explainers_area_is_not_called_a_mask(explanation, monkeypatch):
    texts = []
    monkeypatch.setattr("mpx.pictures.panel.draw_text", lambda page, place, left, right, *rest: texts.append(right))
    for frames in (2, 1):
        draw_panel(explanation(frames=frames), 0)
    assert [text.split()[0] for text in texts if text.endswith("%")] == ["mask", "area"]


def test_a_title_becomes_smaller_before_it_is_cut():
    """Its end differs in the picture only where the end is drawn."""
    pages = []
    for end in "mw":
        for length in (9, 11, 40):
            page = Image.new("RGB", (160, 24), "#fff")
            draw_text(page, (0, 0, 160), "n" * length + end, "p 0.5", 16)
            pages.append(page.tobytes())
    assert [a != b for a, b in zip(pages[:3], pages[3:])] == [True, True, False]


def test_a_nan_is_drawn_not_fatal(explanation):
    e = explanation()
    e.perturbed[0], e.saliency[0], e.value_after[0] = float("nan"), float("nan"), float("nan")
    assert draw_panel(e, 0).getbbox()


def test_a_thumbnail_panel_has_larger_text_and_the_same_pictures(explanation, monkeypatch):
    e, drawn = explanation((64, 64)), {}
    for draw in (draw_panel, draw_thumbnail_panel):
        texts = drawn[draw] = []
        monkeypatch.setattr("mpx.pictures.panel.draw_text", lambda page, place, *text, texts=texts: texts.append(text))
        page = draw(e, 0)
        assert page.width > 3 * to_tile(e.images[0]).width
    small, large = ({text: size for name, number, size, *_ in texts for text in (name, number)} for texts in drawn.values())
    for text in ("mug", "p 0.900", "saliency", "deleted", "p 0.200"):
        assert large[text] >= 1.8 * small[text]


def test_two_rows_of_an_image_have_a_colour_each(explanation):
    e = explanation((64, 64))
    e.images[1] = e.images[0]
    e.saliency = torch.zeros(2, 1, 64, 64)
    grey = overlay_two(e.images[0], *e.saliency)
    e.saliency[0, :, :32], e.saliency[1, :, 16:48] = 1, 1
    image = overlay_two(e.images[0], *e.saliency)
    red_over_blue = (image[0] - image[2]) - (grey[0] - grey[2])
    assert (red_over_blue[:16] > 0).all() and (red_over_blue[32:48] < 0).all() and torch.equal(image[:, 48:], grey[:, 48:])
    assert image[:, 16:32].max() < image[:, :16].amax(0).min()  # both: black
    _, size = panel_layout(to_tile(image).width)
    corner = size, size // 2 + round(1.5 * size)
    assert torch.equal(to_uint8(e.images[0])[:, 0, 0], torch.tensor(e.pair(0, 1).getpixel(corner)))
    with pytest.raises(ValueError, match="different images"):
        explanation().pair(0, 1)


def test_a_panel_lists_the_highest_answers_before_and_after(explanation, monkeypatch):
    e, drawn = explanation((64, 64)), []
    monkeypatch.setattr("mpx.pictures.panel.draw_text", lambda page, place, *text: drawn.append((place[1], *text[:2])))
    with_answers = draw_panel(e, 0).height
    listed = [text for text in sorted(drawn) if text[0] > 64 * 4]
    assert [text[1:] for text in listed[-4:]] == [("bowl", "0.700"), ("mug", "0.900"), ("bowl", "0.060"), ("mug", "0.200")]
    e.answers_before[0] = e.answers_after[0] = e.answers_complement[0] = []
    assert draw_panel(e, 0).height < with_answers
