"""What the engine's parts ask of one another; no algorithm is here.

A domain brings a `Game` (a schedule is built step by step), a `SearchSpace` (a schedule is a
vector), or both, and an `Oracle` that says what schedules cost; lower is better throughout. A
`Strategy` proposes, a `Predictor` ranks what has not been measured. `solvers.contracts` checks an
implementation of each. Games and spaces describe one schedule; batch them with `jax.vmap`.

Axes: N choices and V continuous values of a genome, L tokens of F features of its encoding,
B schedules of a batch, M objectives, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from solvers.command.units import EndedBy

if TYPE_CHECKING:
    from solvers.problem import Problem


class Genome(NamedTuple):
    """A schedule as a vector; a batch of them has a leading axis B on both columns."""

    choices: Int[Array | np.ndarray, " N"]  # choices[i] is one of 0 .. sizes[i] - 1.
    values: Float[Array | np.ndarray, " V"]  # float32, from 0 to 1.


class State(Protocol):
    """A position of a game: a pytree with at least these."""

    @property
    def observation(self) -> Any:
        """What a network sees: a pytree of arrays."""

    @property
    def legal_action_mask(self) -> Bool[Array, " A"]:
        """True where an action is legal; never all false."""

    @property
    def reward(self) -> Float[Array, ""]:
        """Of the last step; an episode's rewards sum to minus its cost, up to a constant."""

    @property
    def terminated(self) -> Bool[Array, ""]:
        """True at the end; a step from there changes nothing and earns 0."""


class Game(Protocol):
    """Sequential decisions. Hashable, since it is a static argument of compiled functions."""

    @property
    def num_actions(self) -> int:
        """A, the same at every step."""

    def num_decisions(self, instance: Any) -> int:
        """Returns after how many steps every episode has ended; from shapes alone."""

    def init(self, instance: Any, key: PRNGKeyArray) -> Any:
        """Returns the first `State`. Chance, if any, is drawn from the key, which the state keeps."""

    def step(self, instance: Any, state: Any, action: Int[Array, ""]) -> Any:
        """Returns the `State` after a legal action."""


class SearchSpace(Protocol):
    """Schedules as genomes of one fixed shape. Hashable; closed under all its operations."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of options of each choice, N of them."""

    @property
    def num_values(self) -> int:
        """V."""

    def sample(self, key: PRNGKeyArray) -> Genome:
        """Returns a random member. The key is consumed, here and below."""

    def mutate(self, key: PRNGKeyArray, genome: Genome) -> Genome:
        """Returns a neighbour."""

    def crossover(self, key: PRNGKeyArray, one: Genome, other: Genome) -> Genome:
        """Returns a child of two."""

    def repair(self, genome: Genome) -> Genome:
        """Returns a member close to any vector within `sizes` and [0, 1]; a member stays itself."""

    def encode(self, genome: Genome) -> Float[Array, "L F"]:
        """Returns what a predictor sees: a sequence of tokens."""


class Measurement(NamedTuple):
    """What an oracle says of one schedule. A failure is an answer, not an exception."""

    costs: tuple[float, ...]  # M, in the oracle's units; infinite after a failure.
    failure: str = ""  # Why there are no costs, in one line.


Unit = Literal["simulations", "measurements"]


class Oracle(Protocol):
    """Says what schedules cost."""

    @property
    def digest(self) -> str:
        """Names the problem, the judge and their versions: a part of the cache's key."""

    @property
    def num_objectives(self) -> int:
        """M."""

    @property
    def unit(self) -> Unit:
        """What one schedule spends of a `Budget`."""

    def measure(self, genomes: Genome) -> Sequence[Measurement]:
        """Returns a measurement of each of a batch of genomes (NumPy arrays).

        An exception is taken for a passing trouble and tried again; what is final is returned.
        """


class Predictor(Protocol):
    """Ranks schedules that were not measured; an ensemble, so that it knows its doubts.

    A function of arrays padded to one size, so that it need not compile anew as data grow.
    """

    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "L F"], num_objectives: int
    ) -> Any:
        """Returns parameters for encodings of that shape."""

    def fit(
        self,
        key: PRNGKeyArray,
        params: Any,
        tokens: Float[Array | np.ndarray, "B L F"],
        costs: Float[Array | np.ndarray, "B M"],
        count: Int[Array, ""],
    ) -> Any:
        """Returns parameters trained on the first `count` rows; infinite costs are failures."""

    def score(
        self, params: Any, tokens: Float[Array, "B L F"]
    ) -> Float[Array, "E B M"]:
        """Returns what each of E members thinks; lower is better, the scale is its own."""


class Proposal(NamedTuple):
    """What a strategy wants measured next, and what it spent on finding it."""

    genomes: Genome  # Leading axis B.
    simulations: int = 0
    predictions: int = 0


class Strategy(Protocol):
    """An engine with its settings. The state is its own; the caller passes it on.

    Proposals already measured are answered from memory, so a strategy may repeat itself, but is
    stopped when it does nothing else.
    """

    def init(self, problem: "Problem", key: PRNGKeyArray) -> Any:
        """Returns the state before anything is measured.

        Raises:
            ValueError: in one line, if the strategy can't search this problem.
        """

    def ask(
        self, problem: "Problem", state: Any, key: PRNGKeyArray
    ) -> tuple[Proposal, Any]:
        """Returns what to measure next. The key is consumed."""

    def tell(
        self,
        problem: "Problem",
        state: Any,
        genomes: Genome,
        costs: np.ndarray,
    ) -> Any:
        """Returns the state that knows the costs [B, M] of genomes [B]; failures are infinite.

        The first batch told is `problem.starts`, if there are any, without having been asked for.
        """


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: the best genome measured: by the first objective, if there are several; None if
            nothing could be measured.
        costs: its costs [M].
        front: genomes that no other beats in every objective, sorted by the first.
        front_costs: their costs [K, M].
        history: costs [T, M] in the order measured, each schedule once; failures are infinite.
        genomes: what was measured, in the same order.
        failures: how many of them failed, by reason.
        repeats: proposals that were answered from memory.
        evaluations: spent, by the names of `Meter.evaluations`.
        ended_by: what ended it; "exhausted" if the strategy had nothing new to propose.
        seconds: wall time.
    """

    best: Genome | None
    costs: tuple[float, ...]
    front: Genome
    front_costs: np.ndarray
    history: np.ndarray
    genomes: Genome
    failures: dict[str, int]
    repeats: int
    evaluations: dict[str, int]
    ended_by: EndedBy | Literal["exhausted"]
    seconds: float
