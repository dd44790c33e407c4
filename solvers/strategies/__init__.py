"""The strategies by name. A domain's own is any object of `solvers.protocols.Strategy`."""

from solvers.guided import Informed
from solvers.protocols import Strategy
from solvers.strategies.brkga import RandomKey
from solvers.strategies.covariance import CovarianceAdaptation
from solvers.strategies.evolution import Evolution
from solvers.strategies.local import Local
from solvers.strategies.planned import Beam, Mcts, Uct
from solvers.strategies.predicted import Predicted
from solvers.strategies.sampling import Random

STRATEGIES: dict[str, Strategy] = {
    "random": Random(),
    "local": Local(),
    "annealing": Local(patience=None, heat=0.3),
    "evolution": Evolution(),
    "brkga": RandomKey(),
    "cma": CovarianceAdaptation(),
    "beam": Beam(),
    "mcts": Mcts(),
    "uct": Uct(),
    "predicted": Predicted(),
    "guided": Informed(),
}


def by_name(name: str) -> Strategy:
    """Returns the strategy of that name, with its default settings.

    Raises:
        ValueError: with the names that there are.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"no strategy {name!r}: there are {', '.join(sorted(STRATEGIES))}"
        )
    return STRATEGIES[name]


__all__ = [
    "STRATEGIES",
    "Beam",
    "CovarianceAdaptation",
    "Evolution",
    "Informed",
    "Local",
    "Mcts",
    "Predicted",
    "Random",
    "RandomKey",
    "Uct",
    "by_name",
]
