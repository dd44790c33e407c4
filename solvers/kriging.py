"""What few measurements say of what was not measured: the posterior of a Gaussian process, with any covariance.

Geostatistics calls it simple kriging. With the covariance of a linear form, x·x', it is ridge regression, the noise its
penalty. N measured, P asked about.
"""

import numpy as np
from jaxtyping import Float


def posterior(
    among: Float[np.ndarray, "N N"],
    across: Float[np.ndarray, "P N"],
    variance: Float[np.ndarray, " P"],
    noise: float,
    values: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Returns mean and standard deviation of values that were not measured (Rasmussen & Williams 2006, eq. 2.25, 2.26).

    The prior's mean is 0. Covariances may be in any unit: the mean does not depend on it, and the deviation is in its root.

    Args:
        among: prior covariance of the measured values, without noise.
        across: that of the asked values with the measured ones.
        variance: the prior's, of each asked value.
        noise: variance of one measurement around its value, in the covariances' unit.
        values: as measured.
    """
    seen = among + noise * np.eye(len(values))
    mean = across @ np.linalg.solve(seen, values)
    explained = np.sum(across * np.linalg.solve(seen, across.T).T, axis=1)
    return mean, np.sqrt(np.clip(variance - explained, 0, variance))
