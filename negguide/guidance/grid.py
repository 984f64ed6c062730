"""Where an attention's image tokens lie in the image, and masks on their grid."""

from torch import Tensor
from torch.nn.functional import interpolate


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """[n, 1, H, W] -> [n, 1, *size], each cell the mean of the area it covers."""
    return interpolate(mask, size=size, mode="area")


def token_grid(tokens: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of `tokens` image tokens: the latent size halved, rounding up, until the count fits.

    Raises:
        ValueError: when no number of halvings gives that count.
    """
    height, width = latent_size
    while height * width > tokens and (height > 1 or width > 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != tokens:
        raise ValueError(
            f"blocks: a self-attention with {tokens} tokens is no halving of the {latent_size[0]}x{latent_size[1]} "
            "latents; choose modules that attend over the image only"
        )
    return height, width
