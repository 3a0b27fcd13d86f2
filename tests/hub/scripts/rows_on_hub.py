"""A user's script: a data set goes to the Hub and is loaded from it by name, with plain datasets."""

import datasets
import huggingface_hub as hub

datasets.Dataset.from_dict({"dialogue": ["a", "b"], "summary": ["x", "y"]}).push_to_hub("alice/rows", private=True)
assert datasets.load_dataset("alice/rows", split="train")[1] == {"dialogue": "b", "summary": "y"}
hub.create_repo("alice/raw", repo_type="dataset")
lines = b'{"q": 1}\n{"q": 2}\n'
hub.upload_file(path_or_fileobj=lines, path_in_repo="train.jsonl", repo_id="alice/raw", repo_type="dataset")
sha = hub.dataset_info("alice/raw").sha
assert datasets.load_dataset("alice/raw", split="train", revision=sha)["q"][:] == [1, 2]
assert hub.HfFileSystem().cat("datasets/alice/raw/train.jsonl") == lines
print("loaded")
