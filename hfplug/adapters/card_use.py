"""The part of a card that shows how to load the adapter. Its code is run by the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.adapters.card_front import auto_class
from hfplug.adapters.card_text import fence
from hfplug.methods.tuners.names import is_added

if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir


def how_to_load(adapter: AdapterDir, place: str, *, on_hub: bool, base: str | None) -> str:
    """How to load it with hfplug, and with PEFT and transformers alone.

    Args:
        adapter: Its configuration and lock say what is needed.
        place: Repo id or folder of the adapter.
        on_hub: Whether ``place`` is a repo id.
        base: Id of the base on the Hub, if it is there.
    """
    shown = json.dumps(place)
    hfplug = f"import hfplug\n\nmodel = hfplug.{'load_from_hub' if on_hub else 'load_adapter'}({shown})"
    lines = ["With hfplug, which checks that the base is the right one:", fence(hfplug, "python")]
    plain = plain_code(adapter, shown, base=json.dumps(base) if base else None)
    which = "transformers" if adapter.kind == "full" else "PEFT and transformers"
    alone = "alone" if "register_peft_types" not in plain else "(PEFT lacks this kind of adapter; hfplug brings it)"
    return "\n\n".join([*lines, f"With {which} {alone}:", fence(plain, "python")])


def plain_code(adapter: AdapterDir, place: str, *, base: str | None) -> str:
    """Python that loads an adapter, or a whole model, without hfplug.

    Args:
        adapter: Its configuration and lock say what is needed.
        place: A Python expression for its repo id or folder.
        base: The same for its base; a placeholder if that is not known to whoever reads it.
    """
    auto = auto_class(adapter)
    if adapter.kind == "full":
        return f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({place})"
    arguments = [base or json.dumps(f"path/to/{Path(adapter.base_name or 'base').name}")]
    if adapter.base_revision and base:
        arguments.append(f"revision={json.dumps(adapter.base_revision)}")
    if adapter.num_labels is not None:
        arguments.append(f"num_labels={adapter.num_labels}")
    imports, before = f"from peft import PeftModel\nfrom transformers import {auto}", ""
    if settings := _bits_and_bytes(adapter):
        imports = f"import torch\nfrom peft import PeftModel\nfrom transformers import {auto}, BitsAndBytesConfig"
        before = f"quantization = BitsAndBytesConfig({settings})\n"
        arguments.append("quantization_config=quantization")
    if is_added(adapter.config.get("peft_type")):
        # A kind of adapter that PEFT does not have: hfplug brings it, and PEFT does the rest.
        imports, before = f"import hfplug\n{imports}", f"hfplug.register_peft_types()\n{before}"
    call = f"base = {auto}.from_pretrained({', '.join(arguments)})"
    return f"{imports}\n\n{before}{call}\nmodel = PeftModel.from_pretrained(base, {place})"


def _bits_and_bytes(adapter: AdapterDir) -> str:
    """Arguments of ``BitsAndBytesConfig``, from the lock; an empty text if the base was not quantised so."""
    settings = (adapter.lock.quantization if adapter.lock else None) or {}
    if not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return ""
    shown = []
    for key, value in settings.items():
        if key in ("load_in_4bit", "load_in_8bit", "bnb_4bit_use_double_quant") and value is True:
            shown.append(f"{key}=True")
        elif key == "bnb_4bit_quant_type" and settings.get("load_in_4bit"):
            shown.append(f"{key}={json.dumps(str(value))}")
        elif key == "bnb_4bit_compute_dtype" and settings.get("load_in_4bit"):
            shown.append(f"{key}=torch.{re.sub(r'^torch[.]|[^a-z0-9]', '', str(value))}")
    return ", ".join(shown)
