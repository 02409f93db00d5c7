"""How much memory a device has in use."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path


class Memory:
    """Of the GPU `device`, all processes together, as the driver sees it; for `cpu`, of this process."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._highest = 0
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    @property
    def _on_gpu(self) -> bool:
        return self._device != "cpu"

    def now(self) -> int:
        """Bytes in use."""
        if self._on_gpu:
            import torch

            free, total = torch.cuda.mem_get_info(self._device)
            used = int(total - free)
        else:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            used = pages * resource.getpagesize()
        self._highest = max(self._highest, used)
        return used

    def highest(self) -> int:
        """Most bytes so far: torch's own peak or what was seen, whichever is more (TensorRT-LLM allocates beside torch)."""
        self.now()
        if self._on_gpu:
            import torch

            return max(self._highest, int(torch.cuda.max_memory_reserved(self._device)))
        return max(self._highest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def release(self) -> None:
        """Give unused memory back, so that the next engine finds it."""
        if self._on_gpu:
            import torch

            torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        """The machine in words."""
        words = {"device": f"CPU ({platform.machine()})", "python": sys.version.split()[0]}
        if self._on_gpu:
            import torch

            words |= {
                "device": str(torch.cuda.get_device_name(self._device)),
                "torch": str(torch.__version__),
                "cuda": str(torch.version.cuda),
            }
        return words
