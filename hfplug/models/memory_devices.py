"""What a device holds: the one here, one by its name, or a size that somebody types."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from hfplug.errors import SettingError, did_you_mean
from hfplug.models import hardware

# Of a device's memory this much is planned with. The rest is for what no tensor holds: the driver's context, the
# libraries' workspaces, and the gaps between blocks of torch's allocator.
USABLE = 0.9

_NVIDIA = "https://www.nvidia.com/en-us"
# Name: (gigabytes as sold, the maker's page). A gigabyte is taken as 1e9 bytes, the smaller reading.
GPUS = {
    "T4": (16, f"{_NVIDIA}/data-center/tesla-t4/"),
    "V100-16GB": (16, f"{_NVIDIA}/data-center/v100/"),
    "V100-32GB": (32, f"{_NVIDIA}/data-center/v100/"),
    "L4": (24, f"{_NVIDIA}/data-center/l4/"),
    "A10": (24, f"{_NVIDIA}/data-center/products/a10-gpu/"),
    "L40S": (48, f"{_NVIDIA}/data-center/l40s/"),
    "A100-40GB": (40, f"{_NVIDIA}/data-center/a100/"),
    "A100-80GB": (80, f"{_NVIDIA}/data-center/a100/"),
    "H100": (80, f"{_NVIDIA}/data-center/h100/"),
    "H200": (141, f"{_NVIDIA}/data-center/h200/"),
    "RTX3060": (12, f"{_NVIDIA}/geforce/graphics-cards/30-series/"),
    "RTX3090": (24, f"{_NVIDIA}/geforce/graphics-cards/30-series/"),
    "RTX4090": (24, f"{_NVIDIA}/geforce/graphics-cards/40-series/rtx-4090/"),
    "RTX5090": (32, f"{_NVIDIA}/geforce/graphics-cards/50-series/rtx-5090/"),
    "MI300X": (192, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"),
}
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What there is to fit into.

    Attributes:
        name: What it is called.
        bytes: Its memory; of the machine at hand what is free now.
        source: Where the number is from.
    """

    name: str
    bytes: int
    source: str

    @property
    def usable(self) -> int:
        """Bytes that tensors may take."""
        return int(USABLE * self.bytes)


def find_device(text: str | None = None) -> Device | None:
    """A device by what the user typed.

    Args:
        text: ``"24GB"``, ``"24GiB"`` or the name of a GPU; None for the device here.

    Returns:
        The device; None if it is the one here and nobody knows what is free on it.

    Raises:
        SettingError: for a size that is none, or a GPU that is not in the table.
    """
    if text is None:
        return _device_here()
    given = text.strip()
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", given.lower())
    if size is not None:
        count = int(float(size[1]) * _UNITS[size[2]])
        if count <= 0:
            raise SettingError(f"A device of {given!r} holds nothing.", fix="For example --memory 24GB.")
        return Device(name=given, bytes=count, source="as typed")
    wanted = re.sub(r"[\s_-]", "", given).upper()
    wanted = wanted.removeprefix("NVIDIA").removeprefix("AMD").removeprefix("GEFORCE")
    for name, (gigabytes, page) in GPUS.items():
        if re.sub("-", "", name) == wanted:
            return Device(name=name, bytes=gigabytes * 10**9, source=page)
    raise SettingError(
        f"The memory of a device is a size (24GB, 24GiB) or the name of a GPU, not {text!r}.",
        fix=" ".join(part for part in (did_you_mean(given, GPUS), f"Known names: {', '.join(GPUS)}.") if part),
    )


def _device_here() -> Device | None:
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device(name=torch.cuda.get_device_name(), bytes=free, source="free now, torch.cuda.mem_get_info")
    if hardware.has_accelerator():
        return None
    free = hardware.available_memory()
    return None if free is None else Device(name="this machine (CPU)", bytes=free, source="free now, /proc/meminfo")
