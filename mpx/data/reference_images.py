"""Images for general statistics of a network's features, which some perturbations need."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mpx.data import datasets
from mpx.data.images import GREY, RGB, read_image
from mpx.data.preprocessing import Preprocess

BUNDLED = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
           "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")  # fmt: skip


def reference_images(
    preprocess: Preprocess | None, shape: tuple[int, int, int], images: str | None = None
) -> Iterator[Tensor]:
    """Yield batches (n,C,H,W) in [0,1] of images of `shape` (C,H,W), each also mirrored.

    images: a folder or a glob; None: thirteen photos of scikit-image, each resized and as five crops of twice the size.
    """
    channels, *size = shape
    if images is None and channels not in (GREY, RGB):
        raise ValueError(f"perturbation.reference_images.images must be a folder of images of {channels} channels")
    folder = datasets.sample()[0].path.parent
    files = [folder / name for name in BUNDLED] if images is None else [item.path for item in datasets.images(images)]
    fit = preprocess if preprocess and list(preprocess.crop) == size else Preprocess((size[0], size[1]), max(size))
    for file in files:
        photo = read_image(file, channels)
        views = [fit(photo, channels)]
        if images is None:
            h, w = size
            enlarged = Preprocess((2 * h, 2 * w), 2 * max(size))(photo, channels)
            corners = [(y, x) for y in (0, h) for x in (0, w)]
            views += [enlarged[:, y : y + h, x : x + w] for y, x in (*corners, (h // 2, w // 2))]
        yield torch.cat([torch.stack(views), torch.stack(views).flip(-1)])
