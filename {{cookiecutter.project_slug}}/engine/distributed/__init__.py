"""Several processes that train one network.

process_group.py: how they find and tell each other; batches.py: how a batch is divided among them; parallel.py: how
gradients are averaged (DDP); fsdp.py: weights in shards.
"""
