"""What depends on the kind of device. An accelerator computes while the host goes on; the host waits only where it reads."""

import torch
from torch import Tensor


def find_device(name: str) -> torch.device:
    """Return the device that `device=` names; auto takes an accelerator if there is one."""
    usable = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda", 0) if "cuda" in usable else torch.device(usable[-1])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} must be auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in usable or (device.type == "cuda" and (device.index or 0) >= gpu_count()):
        raise ValueError(f"device={name!r} is not on this machine: usable here are auto, {', '.join(usable)}")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def gpu_count() -> int:
    """Return the number of CUDA devices of this machine."""
    return torch.cuda.device_count()


def is_accelerator(device: torch.device) -> bool:
    """Return whether the device computes beside the host, which waits when it reads a number."""
    return device.type != "cpu"


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Bring a few numbers from the CPU to the device, without waiting for it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def free_memory() -> None:
    """Return memory that PyTorch keeps to the GPU."""
    torch.cuda.empty_cache()
