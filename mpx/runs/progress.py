"""Progress of a session: a bar in a terminal, a line every half minute in a log file."""

import logging
import math
import time
from collections.abc import Callable

from tqdm import tqdm

log = logging.getLogger("mpx")
BAR = "{desc} |{bar}| {percentage:.0f} % [{elapsed}<{remaining}{postfix}]"
LOG_INTERVAL = 30  # seconds between two lines where there is no terminal


class Progress:
    """Counts images of this session, also parts of one."""

    def __init__(
        self, total: int, describe: Callable[[int], str] = str, unit: str = "image", shown: bool | None = None
    ):
        """total: images to do; describe: images done in this session -> e.g. "3 of 10 images".

        unit: what is counted; shown: whether there is a bar, by default in terminals.
        """
        self._unit = unit
        self._describe = describe
        self._images_done = 0.0
        self._start = time.perf_counter()
        self._last_line = self._start
        hidden = None if shown is None else not shown  # None: tqdm asks the terminal
        self._bar = tqdm(total=total, disable=hidden, dynamic_ncols=True, leave=False, bar_format=BAR,
                         desc=self._count(total))  # fmt: skip

    def advance(self, images: float, note: str = "") -> None:
        """Count another part of the work; note: shown beside the bar."""
        self._images_done = min(self._images_done + images, self._bar.total)  # images of a worker that died are done again
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.set_description_str(self._count(self._bar.total), refresh=False)
        self._bar.update(min(images, self._bar.total - self._bar.n))
        now = time.perf_counter()
        if self._bar.disable and now - self._last_line > LOG_INTERVAL:
            self._last_line = now
            seconds = now - self._start
            seconds_left = seconds / self._images_done * max(0, self._bar.total - self._images_done)
            log.info(
                f"{self._describe(int(self._images_done))}, {tqdm.format_interval(seconds)} elapsed, "
                f"about {tqdm.format_interval(seconds_left)} left"
            )

    def leave_out_image(self) -> None:
        """Take one image, which is skipped, from the total."""
        self._bar.total = max(self._bar.total - 1, 0)
        self._bar.set_description_str(self._count(self._bar.total), refresh=False)

    def _count(self, total: int) -> str:
        """Return the whole images that are done; the bar shows parts of them, too."""
        whole = math.floor(self._images_done + 1e-6)  # parts add up with rounding
        return f"{whole}/{total} {self._unit}{'s' * (total != 1)}"

    def close(self) -> None:
        self._bar.close()
