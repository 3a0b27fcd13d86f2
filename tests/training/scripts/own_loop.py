"""A script without a Trainer: ``own_loop.py OUT``."""

import os
import sys

import torch

os.makedirs(os.path.join(sys.argv[1], "logs"))
print("printed by the script")
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
print("trained")
