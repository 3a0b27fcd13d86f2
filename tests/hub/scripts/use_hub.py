"""A user's script: everything by the environment (HF_ENDPOINT, HF_TOKEN, HF_HOME), nothing by keyword."""

import sys
from pathlib import Path

import huggingface_hub as hub

folder = Path(sys.argv[1])
repo = hub.create_repo("alice/adapter", private=True).repo_id
sha = hub.upload_folder(repo_id=repo, folder_path=folder).oid
assert hub.upload_folder(repo_id=repo, folder_path=folder).oid == sha, "nothing has changed"
down = Path(hub.snapshot_download(repo, revision=sha))
assert down.name == sha
for file in sorted(path for path in folder.rglob("*") if path.is_file()):
    assert (down / file.relative_to(folder)).read_bytes() == file.read_bytes(), file
pull = hub.upload_folder(repo_id=repo, folder_path=folder, path_in_repo="again", create_pr=True)
assert hub.file_exists(repo, "again/adapter_model.safetensors", revision=f"refs/pr/{pull.pr_num}")
assert not hub.file_exists(repo, "again/adapter_model.safetensors")
large = hub.HfApi().get_paths_info(repo, "adapter_model.safetensors")[0]
print("through Xet" if large.xet_hash else "through LFS")
