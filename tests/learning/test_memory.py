"""Memory that is kept for the next pass is given back at the end, also where contexts overlap."""

from pathlib import Path

import pytest
import torch

from mpx.learning import memory
from mpx.learning.memory import kept_memory

MB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_freed_memory_is_kept_until_the_last_context_ends(monkeypatch):
    monkeypatch.setattr(memory, "_contexts", 0)  # other tests leave workers that never end
    with kept_memory():
        pass
    before = resident()
    with kept_memory():
        with kept_memory():
            block = torch.ones(64 * MB // 4)
            del block
            assert resident() - before > 50 * MB
        assert resident() - before > 50 * MB
    assert resident() - before < 30 * MB
    block = torch.ones(64 * MB // 4)
    del block
    assert resident() - before < 30 * MB
