"""What every test gets."""

import torch

torch.set_num_threads(1)  # the networks here are tiny, and threads that contend for a core are many times slower
