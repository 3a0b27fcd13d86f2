"""What this machine has, as ``hfplug doctor`` reports it: versions, devices, the Hub's address, the cache."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "safetensors", "tokenizers",
    "bitsandbytes", "trl", "deepspeed", "gradio", "hf_xet",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Versions, devices, the Hub and the cache, as JSON values. No network is used, and no token is shown."""
    import torch
    from huggingface_hub import constants, get_token

    from hfplug import __version__
    from hfplug.models import hardware

    cache = Path(constants.HF_HUB_CACHE)
    existing = next((one for one in (cache, *cache.parents) if one.exists()), None)
    return {
        "hfplug": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(torch),
        "fast_bfloat16": hardware.has_fast_bfloat16(),
        "threads": torch.get_num_threads(),
        "endpoint": _without_user(constants.ENDPOINT),
        "offline": "on" if constants.HF_HUB_OFFLINE else "off",
        "xet": "on" if _version("hf_xet") and not constants.HF_HUB_DISABLE_XET else "off",
        "token": "found" if get_token() else "none",
        "cache": str(cache),
        "cache_free_bytes": shutil.disk_usage(existing).free if existing else None,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "executable": sys.executable,
    }


def render_environment(found: dict[str, Any]) -> str:
    """The same for people.

    Args:
        found: From :func:`describe_environment`.
    """
    lines = [f"hfplug {found['hfplug']}, Python {found['python']}, {found['platform']}"]
    packages = [f"{name} {version or '-'}" for name, version in found["packages"].items()]
    lines += [f"packages   {', '.join(packages)}"]
    lines += [f"device     {device}" for device in found["devices"]]
    fast = "has units for it" if found["fast_bfloat16"] else "has no units for it: QLoRA multiplies in another dtype"
    lines.append(f"bfloat16   this hardware {fast}")
    lines.append(
        f"Hub        {found['endpoint']} (offline {found['offline']}, Xet {found['xet']}, token {found['token']})"
    )
    free = f", {found['cache_free_bytes'] / 1e9:,.1f} GB free" if found["cache_free_bytes"] is not None else ""
    lines.append(f"cache      {found['cache']}{free}")
    return "\n".join(lines)


def _without_user(url: str) -> str:
    """An address without the name and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(torch: Any) -> list[str]:
    found = [f"CPU, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            found.append(f"GPU {index}: {name}, {free / 1e9:,.1f} of {total / 1e9:,.1f} GB free")
    elif torch.backends.mps.is_available():
        found.append("Apple GPU (MPS)")
    return found
