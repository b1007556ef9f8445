"""What a want of memory looks like."""

import torch


def out_of_memory(error: Exception) -> bool:
    """torch has a class of error for CUDA only."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )
