"""Prompt tuning: trained virtual tokens before the input (Lester et al. 2021, https://arxiv.org/abs/2104.08691).

A matrix P of shape (num_virtual_tokens, embedding_size) is put before the embedded input of every row; P is
all that is trained. The paper reaches full fine-tuning only from 11 billion parameters on (figure 1); on small
models it lags clearly, and hfplug says so before the run.

The preset ``paper`` is its section 3: 100 virtual tokens, a learning rate of 0.3 (Adafactor, 30,000 steps of 32 rows,
T5). They start from the vocabulary; the paper starts them from the words of the classes where a task has classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.method import AnatomyView, Default, LearningRate, TuningMethod, register_method
from hfplug.methods.settings import setting
from hfplug.methods.soft_prompts import InputPrompt, heads_to_save
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig

INITIALISATIONS = ("auto", "text", "vocabulary", "random")


@register_method
@dataclass(frozen=True, kw_only=True)
class PromptTuning(InputPrompt):
    """Train a few virtual tokens before the input; the base stays as it is."""

    name: ClassVar[str] = "prompt_tuning"
    flag_prefix: ClassVar[str] = "prompt"
    summary: ClassVar[str] = "trained virtual tokens before the input; lags LoRA on small models"
    paper: ClassVar[str] = "Lester et al. 2021, https://arxiv.org/abs/2104.08691"
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            settings={"num_virtual_tokens": 100, "prompt_init": "vocabulary"},
            learning_rate=0.3,
            source="Lester et al. 2021, section 3 (T5)",
        )
    }

    num_virtual_tokens: int = setting(
        20, low=1, high=1000, help="virtual tokens; the paper takes 100, and finds that 20 do nearly as well"
    )
    prompt_init: str = setting(
        "auto",
        choices=INITIALISATIONS,
        help="how the virtual tokens start; auto: from the task's text, or else from the vocabulary",
    )
    prompt_init_text: str | None = setting(None, help="the text to start from, usually the task's instruction")

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        large = " (and from 11 B on a single one does well)" if anatomy.parameters >= 10e9 else ""
        why = f"at every size more than 20 gain little{large}"
        return {
            "num_virtual_tokens": Default(value=20, why=why, source="Lester et al. 2021, section 3.2, figure 3 (T5)"),
            "prompt_init": Default(
                value="auto",
                why="words that are there already do better than random numbers, the more so on small models",
                source="Lester et al. 2021, section 3.2, figure 3 (T5)",
            ),
        }

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type=anatomy.task_type,
            num_virtual_tokens=self.num_virtual_tokens,
            # Left to itself PEFT doubles the rows of an encoder-decoder and trains the first half only.
            num_transformer_submodules=1,
            # Asked of the model's config by PEFT if absent, although prompt tuning needs neither.
            token_dim=anatomy.embedding_size,
            num_layers=anatomy.layers,
            num_attention_heads=anatomy.attention_heads,
            modules_to_save=heads_to_save(anatomy),
            **self._initialisation(anatomy),
        )

    def _initialisation(self, anatomy: AnatomyView) -> dict[str, Any]:
        can_read_text = bool(self.prompt_init_text) and anatomy.tokenizer_source is not None
        chosen = self.prompt_init
        if chosen == "auto":
            chosen = "text" if can_read_text else "vocabulary"
        if chosen == "text":
            if not can_read_text:
                missing = "prompt_init_text" if not self.prompt_init_text else "a base with a tokenizer beside it"
                raise MethodError(
                    f"prompt_tuning: prompt_init='text' needs {missing}.",
                    fix="Pass prompt_init_text='what the task asks for', or prompt_init='vocabulary'.",
                )
            kwargs = {"revision": anatomy.revision} if anatomy.revision else None
            return {
                "prompt_tuning_init": "TEXT",
                "prompt_tuning_init_text": self.prompt_init_text,
                "tokenizer_name_or_path": anatomy.tokenizer_source,
                "tokenizer_kwargs": kwargs,
            }
        return {"prompt_tuning_init": "SAMPLE_VOCAB" if chosen == "vocabulary" else "RANDOM"}

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """0.3 with Adafactor (Lester et al. 2021, section 3); at that of full fine-tuning a prompt hardly moves."""
        return LearningRate(value=0.3, low=1e-2, high=1.0, source="Lester et al. 2021, section 3")

    def with_task_text(self, text: str) -> TuningMethod:
        return self.saying(prompt_init_text=text) if self.prompt_init_text is None else self

    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens
