"""Several processes that train one network: process group, DDP, FSDP, how a batch is divided."""
