"""A user's Trainer script with hfplug's two lines: ``plain_trainer.py BASE OUT MAX_STEPS ROWS_A_PROCESS``."""

import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import hfplug


class InOrder(Trainer):
    """Rows in their order, so that two processes together see the batches of one."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)


def main() -> None:
    base, out, steps, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.manual_seed(0)
    ids = torch.randint(3, 64, (64, 9), generator=torch.Generator().manual_seed(2)).tolist()
    model = hfplug.apply_method(AutoModelForCausalLM.from_pretrained(base), "lora")
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=steps,
        per_device_train_batch_size=rows,
        learning_rate=1e-2,
        save_steps=10,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 9] * 64, "labels": ids}),
        callbacks=hfplug.adapter_callbacks(),
    )
    checkpoint = hfplug.last_whole_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    print(f"process {trainer.args.process_index} of {trainer.args.world_size} done", flush=True)


if __name__ == "__main__":
    main()
