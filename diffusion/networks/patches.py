"""Squares of pixels as the channels of one position, and back."""

from jaxtyping import Array, Float


def split(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B h w D"]:
    """Returns the image with side x side pixels per position."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side * c)


def merge(x: Float[Array, "B h w D"], side: int) -> Float[Array, "B H W C"]:
    """Returns the image that `split` took apart."""
    b, h, w, d = x.shape
    x = x.reshape(b, h, w, side, side, d // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, d // side**2)
