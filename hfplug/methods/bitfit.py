"""BitFit: only the biases are trained (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199).

What is saved is the difference to each bias of the base, a few hundred kilobytes for a model of 100 million
parameters. Many models of today have no bias at all (T5, Llama): there is nothing to train on them, and `norms`
is what comes closest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import AnatomyView, LearningRate, TuningMethod, modules_to_save, register_method
from hfplug.methods.settings import setting

if TYPE_CHECKING:
    from peft import PeftConfig

PLACES = ("all", "attention", "feed_forward", "norms")


@register_method
@dataclass(frozen=True, kw_only=True)
class BitFit(TuningMethod):
    """Train the biases of the base and nothing else."""

    name: ClassVar[str] = "bitfit"
    category: ClassVar[str] = "selective"
    flag_prefix: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "the biases only; for models that have some"
    paper: ClassVar[str] = "Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199"
    untrained: ClassVar[str] = "base"
    peft_type: ClassVar[str | None] = "HFPLUG_BITFIT"

    biases: str = setting("all", choices=PLACES, help="whose biases")

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from hfplug.methods.tuners.bias import Config
        from hfplug.methods.tuners.names import register_peft_types

        register_peft_types()
        wanted = self._layers(anatomy)
        if not wanted:
            some = "no bias" if not anatomy.biases else f"no bias in {self.biases}"
            raise MethodError(
                f"bitfit trains biases, and this {anatomy.model_type} model has {some}.",
                fix="Use norms, which trains the scales of its normalisation layers, or lora."
                if not anatomy.biases
                else "Use biases='all'.",
            )
        return Config(
            task_type=anatomy.task_type,  # type: ignore[arg-type]
            target_modules=shortest_names(wanted, anatomy.modules),
            modules_to_save=modules_to_save(anatomy),
        )

    def _layers(self, anatomy: AnatomyView) -> tuple[str, ...]:
        groups = {"attention": anatomy.attention, "feed_forward": anatomy.feed_forward, "norms": anatomy.norms}
        if self.biases not in groups:
            return anatomy.biases
        inside = set(groups[self.biases])
        return tuple(name for name in anatomy.biases if name in inside)

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """1e-4 to 1e-3 on BERT (Ben Zaken et al. 2022), 1.6e-3 on GPT-3 (Hu et al. 2021); a small base takes more."""
        if anatomy.parameters < 50e6:
            return LearningRate(value=5e-3, low=5e-5, high=5e-2, source="hfplug's own; 1e-3 from 50 M parameters on")
        source = "Ben Zaken et al. 2022 (1e-4 to 1e-3 on BERT); Hu et al. 2021, table 12 (1.6e-3 on GPT-3)"
        return LearningRate(value=1e-3, low=5e-5, high=5e-2, source=source)
