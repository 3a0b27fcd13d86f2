"""The built-in task: generated dialogues, three tasks over them, and a very small pretrained T5."""
