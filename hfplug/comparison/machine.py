"""Where something was measured: the machine and the versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from hfplug.comparison.variants import MachineInfo


def describe_machine() -> MachineInfo:
    """This machine, as far as it explains times and memory; no name of the host or of a person."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    names = [torch.cuda.get_device_name(index) for index in range(count)] if torch.cuda.is_available() else []
    return MachineInfo(
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=_memory_bytes(),
        accelerators=tuple(names),
        threads=torch.get_num_threads(),
    )


def _processor() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
