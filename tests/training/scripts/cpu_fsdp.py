"""``cpu_fsdp.py WORDS…``: ``hfplug WORDS…`` with FSDP2 over processes on the CPU.

accelerate (1.15) gives FSDP to processes with an accelerator each and makes the others DDP, although torch shards over
gloo as well. Everything else is as on several GPUs: accelerate's configuration, Trainer, hfplug.
"""

import sys

from accelerate import state
from accelerate.utils import DistributedType

original = state.AcceleratorState.__init__


def init(self, *args, **kwargs):
    original(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin")
    if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = plugin
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


state.AcceleratorState.__init__ = init

if __name__ == "__main__":
    from hfplug.cli.main import main

    sys.exit(main(sys.argv[1:]))
