"""Kinds of adapters that PEFT does not have, made of PEFT's own parts: it saves, loads, switches and merges them."""
