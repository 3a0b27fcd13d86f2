"""QLoRA: LoRA over a base that is held in 4 bits (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

The frozen weights are stored as 4-bit NormalFloat values in blocks of 64 with one constant a block, and the
constants are quantised in turn (section 3); for each product they are unpacked into the compute
dtype. The two LoRA matrices stay in full precision and are all that is trained.

From a billion parameters on it goes on all linear layers: on LLaMA-7B the paper needs them all to be as good as full
fine-tuning in 16 bits (section 4, figure 2), and the rank matters little then (appendix A.2).

The preset ``paper`` is what the paper takes for LLaMA of 7 B and 13 B (its appendix B.2, and the scripts of
https://github.com/artidoro/qlora): rank 64 on all linear layers, alpha 16, dropout 0.1, a learning rate of 2e-4;
``paper_33b`` what it takes for 33 B and 65 B: dropout 0.05, 1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hfplug.methods.lora import Lora
from hfplug.methods.method import AnatomyView, Default, Quantization, register_method
from hfplug.methods.settings import setting
from hfplug.methods.values import Preset

DTYPES = ("auto", "float32", "bfloat16", "float16")


@register_method
@dataclass(frozen=True, kw_only=True)
class QLora(Lora):
    """LoRA, with the frozen base in 4 bits."""

    name: ClassVar[str] = "qlora"
    flag_prefix: ClassVar[str] = "qlora"
    summary: ClassVar[str] = "LoRA over a base held in 4 bits"
    paper: ClassVar[str] = "Dettmers et al. 2023, https://arxiv.org/abs/2305.14314"
    merging: ClassVar[str] = "into the unquantised base; merging into the 4-bit weights loses quality"
    peft_type: ClassVar[str | None] = None  # an adapter of LoRA does not say over what it was trained
    extra: ClassVar[str | None] = "qlora"
    batching: ClassVar[str] = "yes, with others over the same base in 4 bits"
    presets: ClassVar[Mapping[str, Preset]] = {
        name: Preset(
            settings={"r": 64, "lora_alpha": 16, "lora_dropout": dropout, "target_modules": ("all-linear",)},
            learning_rate=rate,
            source=f"Dettmers et al. 2023, appendix B.2 (LLaMA of {sizes})",
        )
        for name, dropout, rate, sizes in (
            ("paper", 0.1, 2e-4, "7 B and 13 B"),
            ("paper_33b", 0.05, 1e-4, "33 B and 65 B"),
        )
    }

    quant_type: str = setting("nf4", choices=("nf4", "fp4"), help="the 4-bit data type")
    double_quant: str = setting("on", choices=("on", "off"), help="quantise the constants as well")
    compute_dtype: str = setting(
        "auto", choices=DTYPES, help="dtype of the products; auto chooses what this hardware does fast"
    )
    storage_dtype: str = setting(
        "auto", choices=(*DTYPES, "uint8"), help="dtype that holds the packed bytes; auto suits FSDP where it runs"
    )

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        found = dict(super().defaults(anatomy))
        if anatomy.parameters >= 1e9:
            found["target_modules"] = Default(
                value=("all-linear",),
                why="needed to be as good as full fine-tuning in 16 bits",
                source="Dettmers et al. 2023, section 4 and figure 2 (LLaMA-7B)",
            )
        bits = {"quant_type": ("nf4", "better than fp4"), "double_quant": ("on", "0.37 bits less a weight at no loss")}
        place = "Dettmers et al. 2023, sections 3 and 4"
        return found | {name: Default(value=value, why=why, source=place) for name, (value, why) in bits.items()}

    def quantization(self) -> Quantization:
        return Quantization(
            quant_type=self.quant_type,
            double_quant=self.double_quant,
            compute_dtype=self.compute_dtype,
            storage_dtype=self.storage_dtype,
        )
