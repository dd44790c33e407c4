"""Writes digits.npz from scikit-learn's copy of the UCI handwritten digits.

    python diffusion/datasets/make_digits.py

Needs scikit-learn, which is no dependency of this project. Data: E. Alpaydin and C. Kaynak, Optical
Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, CC BY 4.0; the test part,
1797 images of 8 x 8.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-not-found,unused-ignore]


def main() -> None:
    digits = load_digits()
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(
        path,
        images=digits.images.astype(np.uint8),  # 0..16.
        labels=digits.target.astype(np.uint8),
    )
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
