"""Named tensors: families, checkpoints, stores; networks made by timm."""
