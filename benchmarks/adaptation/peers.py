"""Published methods with few trainable parameters, as PEFT has them: their configurations for a backbone's layers.

What is random and frozen is made again from a seed, so that a task's file holds trained tensors alone.
"""

from collections.abc import Callable


def fourierft(count: int) -> Callable:
    """Gao et al., 2024, https://arxiv.org/abs/2405.03003: so many places of each layer's spectrum."""

    def config(layers, _):
        from peft import FourierFTConfig

        return FourierFTConfig(n_frequency=count, scaling=10.0, target_modules=layers, init_weights=True)

    return config


def waveft(count: int) -> Callable:
    """So many wavelet coefficients of each layer; as PEFT has it."""

    def config(layers, _):
        from peft import WaveFTConfig

        return WaveFTConfig(n_frequency=count, scaling=10.0, target_modules=layers, init_weights=True)

    return config


def unilora(count: int) -> Callable:
    """Li et al., 2025, https://arxiv.org/abs/2506.00799: one vector for the factors of all layers, rank 4."""

    def config(layers, _):
        from peft import UniLoraConfig

        return UniLoraConfig(r=4, theta_d_length=count, proj_seed=0, target_modules=layers, save_indices=False)

    return config


def tinylora(count: int) -> Callable:
    """https://arxiv.org/abs/2602.04118: so many numbers a layer, projected to the space between two singular
    directions of each side."""

    def config(layers, _):
        from peft import TinyLoraConfig

        return TinyLoraConfig(r=2, u=count, projection_seed=0, save_projection=False, target_modules=layers)

    return config


def vblora(length: int) -> Callable:
    """Li et al., 2024, https://arxiv.org/abs/2405.15179: factors of rank 1 from 8 shared vectors of this length."""

    def config(layers, _):
        from peft import VBLoRAConfig

        return VBLoRAConfig(r=1, num_vectors=8, vector_length=length, topk=2, target_modules=layers)

    return config


def road(layers, _):
    """Liao and Monz, 2024, https://arxiv.org/abs/2409.00119: rotations of pairs of outputs, variant 1."""
    from peft import RoadConfig

    return RoadConfig(variant="road_1", group_size=4, target_modules=layers)


def psoft(rank: int) -> Callable:
    """https://openreview.net/forum?id=FSHrinMArK: a rotation and scales within each layer's principal subspace."""

    def config(layers, _):
        from peft import PsoftConfig

        return PsoftConfig(r=rank, psoft_alpha=rank, target_modules=layers)

    return config


def c3a(block: int) -> Callable:
    """Chen et al., 2024, https://arxiv.org/abs/2407.19342: circulant blocks of this size."""

    def config(layers, _):
        from peft import C3AConfig

        return C3AConfig(block_size=block, target_modules=layers, init_weights=True)

    return config


def shira(layers, _):
    """Bhardwaj et al., 2024, https://arxiv.org/abs/2406.13175: as many single weights, at random, as LoRA of rank 1 has
    numbers."""
    from peft import ShiraConfig

    return ShiraConfig(r=1, mask_type="random", random_seed=0, target_modules=layers)
