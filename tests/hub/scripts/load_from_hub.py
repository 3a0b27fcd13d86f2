"""A user's script: base and adapter go to the Hub and are loaded from it by name, with plain transformers and PEFT."""

import torch
from huggingface_hub import model_info
from peft import AutoPeftModelForSeq2SeqLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
T5ForConditionalGeneration(T5Config(vocab_size=64, **sizes)).push_to_hub("alice/base")
base = AutoModelForSeq2SeqLM.from_pretrained("alice/base")
tuned = get_peft_model(base, LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], init_lora_weights=False))
tuned.push_to_hub("alice/adapter", private=True)
rows = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[0, 8]])}
expected = tuned.eval()(**rows).logits
fresh = AutoModelForSeq2SeqLM.from_pretrained("alice/base")
loaded = PeftModel.from_pretrained(fresh, "alice/adapter", revision=model_info("alice/adapter").sha)
assert torch.equal(loaded.eval()(**rows).logits, expected)
whole = AutoPeftModelForSeq2SeqLM.from_pretrained("alice/adapter")
assert torch.equal(whole.eval()(**rows).logits, expected)
print("loaded")
