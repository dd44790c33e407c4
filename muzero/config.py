"""Sizes and rates. All are frozen, since compiled functions depend on them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the networks.

    Attributes:
        width: of the hidden state.
        blocks: residual blocks behind the encoder, and in the dynamics.
        token_width: of a token inside the attention.
        token_blocks: attention blocks.
        heads: of the attention; they divide `token_width`.
        channels: of the convolutions over a grid, one layer each.
        atoms: of the categorical value and reward.
    """

    width: int = 64
    blocks: int = 2
    token_width: int = 32
    token_blocks: int = 1
    heads: int = 2
    channels: tuple[int, ...] = (16, 32)
    atoms: int = 51


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search of the tree.

    Attributes:
        num_simulations: model steps per move and lane.
        max_considered: actions that the root considers.
        min_range: spread of the values at a node below which they count as nearly equal. The
            search scales them to [0, 1], and would else take noise for preference.
        value_scale: how much the values weigh against the prior, as mctx has it.
        uniform_share: of the root's prior, spread evenly over the legal actions, so that what
            was once written off can come back.
    """

    num_simulations: int = 16
    max_considered: int = 16
    min_range: float = 0.03
    value_scale: float = 0.1
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        if self.num_simulations < 1:
            raise ValueError("num_simulations must be at least 1")
        if not 0 <= self.uniform_share < 1:
            raise ValueError("uniform_share must lie in 0..1, without 1")


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """Gradient steps on replayed positions.

    Attributes:
        rows: positions per update, R.
        updates: per iteration.
        unroll: steps of the learned dynamics that are trained through, K; the agent with the
            true rules has none.
        bootstrap: steps after which the return is completed by the searched value; None: never,
            so that the noise of self-play is taken for what a position is worth.
        learning_rate: of AdamW.
        decay_updates: over so many updates the rate falls to a tenth by a cosine; 0: constant.
        weight_decay: of AdamW.
        clip: of the gradient's global norm.
        value_weight: of the value's loss, the policy's being 1.
        reward_weight: of the reward's.
        legal_weight: of the legal actions'.
        alpha: exponent of the priorities by which positions are drawn; 0 is uniform.
        beta: exponent of the importance weights that make up for it.
        best_share: of the rows, drawn from the best episodes of each instance and imitated.
    """

    rows: int = 64
    updates: int = 16
    unroll: int = 5
    bootstrap: int | None = 5
    learning_rate: float = 1e-3
    decay_updates: int = 0
    weight_decay: float = 1e-4
    clip: float = 1.0
    value_weight: float = 1.0
    reward_weight: float = 1.0
    legal_weight: float = 1.0
    alpha: float = 0.6
    beta: float = 1.0
    best_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.best_share <= 1:
            raise ValueError(f"best_share must lie in 0..1, not {self.best_share}")
        if self.unroll < 1 or (self.bootstrap is not None and self.bootstrap < 1):
            raise ValueError("unroll and bootstrap must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """An iteration of training: self-play, then learning.

    Attributes:
        lanes: episodes side by side, B; the instances take turns in them.
        least_random: moves per episode made at random in the most careful lane, on average; the
            search's own noise ends when the policy has become sure of itself.
        most_random: in the boldest lane; between the two they grow geometrically, as in Horgan
            et al. 2018.
        capacity: episodes kept for replay, C.
        best_kept: best episodes kept per instance.
        warmup: the first iterations, in which nothing is played and the demonstrations alone are learnt
            from; they need some.
        curriculum: iterations behind the warm-up over which the instances come into play one after
            another, in their order; 0: all of them at once.
        earning_only: of the best episodes and demonstrations, only moves that earned something are
            imitated: for games that judge each move at once.
        reanalyse_every: iterations between two in which B old episodes are searched anew by the
            present network; 0: never.
        search: of a move.
        learn: from the replay.
    """

    lanes: int = 16
    least_random: float = 0.1
    most_random: float = 3.0
    capacity: int = 256
    best_kept: int = 4
    curriculum: int = 0
    warmup: int = 0
    earning_only: bool = False
    reanalyse_every: int = 4
    search: SearchConfig = field(default_factory=SearchConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.lanes <= self.capacity:
            raise ValueError("lanes must lie in 1..capacity")
        if not 0 < self.least_random <= self.most_random:
            raise ValueError("least_random must be positive, and not above most_random")
        if self.best_kept < 1 or min(self.warmup, self.curriculum) < 0:
            raise ValueError(
                "best_kept must be at least 1, warmup and curriculum not negative"
            )
