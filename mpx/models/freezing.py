"""Freezing a user's network: eval mode and no parameter gradients within a context, everything restored on leaving it."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()  # not attributes: locks cannot be pickled
_locks_guard = threading.Lock()


@contextmanager
def exclusive_access(*networks: nn.Module) -> Iterator[None]:
    """Make other threads wait that freeze networks with any module in common, however they are wrapped.

    Without it a second thread would record the frozen state as the one to restore.
    """
    with _locks_guard:  # locks are taken in one order, or two threads could wait for each other
        modules = {module for network in networks for module in network.modules()}
        locks = [_locks.setdefault(module, threading.RLock()) for module in sorted(modules, key=id)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """Set eval mode and switch parameter gradients off; on leaving, restore each module's mode and each parameter's flag."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        for module, _ in modes:  # the flag itself: a network's own train() may do more than set it
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
