"""What a mixture-of-experts layer moves and multiplies: its configuration, and the volumes of its tasks.

Volumes are counted as the authors' own optimiser counts them, for a whole node (the N_ESP devices that share
tokens), which is also how the published slopes are scaled: with S = k·f·B·L token slots,

    all-to-all, all-gather, reduce-scatter   S·M elements each
    experts                                  g · S·M·H / N_ESP multiply-adds, g GEMMs of one expert shard
    gradients of the dense part              4·M² elements (attention's four projections; experts have one copy)
    dense part                               B·L·(4·M² + 2·L·M) / N_MP multiply-adds in 6 GEMMs

The paper gives no formula for any of these. Its measured times per layer (`MEASURED`) tell how far they hold:
`measured_ratios` is measured over predicted. Heads change none of them (softmax and layer norm are not counted), so
that a third of the 1458 layers differ in nothing that a model of volumes sees.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal, NamedTuple

from compiler.moe.performance import TESTBED_A, TESTBED_B, PerformanceModel

FeedForward = Literal["simple", "gated"]
# GEMMs of an expert: up and down, or gate, up and down (Mixtral).
GEMMS: Mapping[FeedForward, int] = {"simple": 2, "gated": 3}
DENSE_GEMMS = 6  # Query, key, value, output; scores and their sum.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """One transformer layer with experts.

    Attributes:
        samples: B, of the devices that share them (a node, with tensor parallelism inside).
        length: L, tokens of a sample.
        width: M, of an embedding.
        hidden: H, of one expert.
        experts: E.
        active: k, experts of a token.
        capacity: f, slots of an expert over its fair share; None drops no token. The volumes are then those of f = 1:
            a balanced load, which is the least that can happen.
        heads: of attention.
        feed_forward: "simple" (two GEMMs) or "gated" (three).
        expert_span: N_EP, devices that experts are spread over.
        shard_span: N_ESP = N_MP, devices that one expert and attention are cut over.
    """

    samples: int
    length: int
    width: int
    hidden: int
    experts: int
    active: int = 2
    capacity: float | None = 1.2
    heads: int = 16
    feed_forward: FeedForward = "simple"
    expert_span: int = 8
    shard_span: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.experts:
            raise ValueError(
                f"a token goes to 1..{self.experts} experts, not {self.active}"
            )
        if self.capacity is not None and self.capacity <= 0:
            raise ValueError(f"the capacity factor is positive, not {self.capacity}")
        for name in ("hidden", "width"):
            if getattr(self, name) % self.shard_span:
                raise ValueError(
                    f"{name} {getattr(self, name)} can't be cut over {self.shard_span} devices"
                )

    @property
    def tokens(self) -> int:
        """B·L."""
        return self.samples * self.length

    @property
    def slots(self) -> float:
        """S = k·f·B·L, of all experts together."""
        return self.active * (self.capacity or 1.0) * self.tokens


class Volumes(NamedTuple):
    """Work of one layer's forward pass, by task; the backward pass does the expert and dense work twice.

    Attributes:
        exchange, gather, scatter: elements of one all-to-all, the all-gather, the reduce-scatter.
        expert: multiply-adds, all GEMMs together.
        expert_gemms: how many they are.
        gradient: elements to all-reduce after the backward pass.
        dense: multiply-adds.
        dense_gemms: how many they are.
    """

    exchange: float
    gather: float
    scatter: float
    expert: float
    expert_gemms: int
    gradient: float
    dense: float
    dense_gemms: int


def volumes(configuration: Configuration) -> Volumes:
    """Returns a layer's volumes, see the module."""
    c = configuration
    moved = c.slots * c.width
    gemms = GEMMS[c.feed_forward]
    return Volumes(
        exchange=moved,
        gather=moved,
        scatter=moved,
        expert=gemms * moved * c.hidden / c.shard_span,
        expert_gemms=gemms,
        gradient=4.0 * c.width**2,
        dense=c.tokens * (4 * c.width**2 + 2 * c.length * c.width) / c.shard_span,
        dense_gemms=DENSE_GEMMS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Testbed:
    """A cluster of the paper.

    Attributes:
        model: its lines.
        nodes: N_EP, with as many experts.
        devices: per node: N_MP = N_ESP.
        lengths: L of the configured layers.
    """

    model: PerformanceModel
    nodes: int
    devices: int
    lengths: tuple[int, ...]


TESTBEDS: Mapping[str, Testbed] = {
    "A": Testbed(model=TESTBED_A, nodes=6, devices=8, lengths=(512, 1024, 2048)),
    "B": Testbed(model=TESTBED_B, nodes=8, devices=4, lengths=(256, 512, 1024)),
}


def configured(testbed: Testbed) -> list[Configuration]:
    """Returns the paper's 1458 layers on a test bed: k = 2, one expert per node."""
    kinds: tuple[FeedForward, ...] = ("simple", "gated")
    return [
        Configuration(
            samples=samples,
            heads=heads,
            length=length,
            width=width,
            hidden=ratio * width,
            capacity=capacity,
            feed_forward=kind,
            experts=testbed.nodes,
            expert_span=testbed.nodes,
            shard_span=testbed.devices,
        )
        for samples, heads, length, width, ratio, capacity, kind in itertools.product(
            (1, 2, 4),
            (8, 16, 32),
            testbed.lengths,
            (1024, 2048, 4096),
            (2, 3, 4),
            (1.2, 2.4, None),
            kinds,
        )
    ]


# Published widths; samples and length as in the paper's tables, to be replaced to taste.
PRESETS: Mapping[str, Configuration] = {
    # GPT2-XL with experts, as the paper builds it.
    "gpt2-xl-moe": Configuration(
        samples=4, length=1024, width=1600, hidden=6400, experts=8, heads=25
    ),
    # Mixtral-8x7B: 8 experts, 2 active, SwiGLU of 14336.
    "mixtral-8x7b": Configuration(
        samples=4,
        length=1024,
        width=4096,
        hidden=14336,
        experts=8,
        heads=32,
        feed_forward="gated",
    ),
    # DeepSeek-V2-Lite: 64 routed experts of 1408, 6 active (its two shared experts are dense work).
    "deepseek-v2-lite": Configuration(
        samples=4,
        length=1024,
        width=2048,
        hidden=1408,
        experts=64,
        active=6,
        heads=16,
        feed_forward="gated",
    ),
    # Qwen1.5-MoE-A2.7B: 60 routed experts of 1408, 4 active; Qwen3-30B-A3B: 128 of 768, 8 active.
    "qwen1.5-moe": Configuration(
        samples=4,
        length=1024,
        width=2048,
        hidden=1408,
        experts=60,
        active=4,
        heads=16,
        feed_forward="gated",
        expert_span=4,
    ),
    "qwen3-30b-a3b": Configuration(
        samples=4,
        length=1024,
        width=2048,
        hidden=768,
        experts=128,
        active=8,
        heads=32,
        feed_forward="gated",
    ),
}


class Ratios(NamedTuple):
    """Multiples of time, by task."""

    exchange: float = 1.0
    gather: float = 1.0
    scatter: float = 1.0
    expert: float = 1.0
    gradient: float = 1.0
    dense: float = 1.0


# Milliseconds of one layer at B = 4, L = 1024, forward (both all-to-alls, all-gather, reduce-scatter, experts,
# attention) and the backward pass's all-reduce; table 2 of the paper.
MEASURED: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("A", "gpt2-xl-moe"): (6.9, 4.6, 5.4, 3.1, 1.7, 5.26),
    ("A", "mixtral-8x7b"): (19.5, 12.3, 13.7, 15.6, 4.1, 26.45),
    ("B", "gpt2-xl-moe"): (11.2, 15.5, 15.7, 6.7, 4.5, 7.3),
    ("B", "mixtral-8x7b"): (28.3, 39.6, 40.8, 58.5, 9.5, 32.1),
}


def measured_ratios(name: str, preset: str) -> Ratios:
    """Returns how much longer a layer's tasks took on a test bed than lines and volumes say.

    Args:
        name: of the test bed, "A" or "B".
        preset: "gpt2-xl-moe" or "mixtral-8x7b".

    Raises:
        ValueError: the paper has no such row.
    """
    if (name, preset) not in MEASURED:
        raise ValueError(f"no measurement of {preset} on test bed {name}")
    bed = TESTBEDS[name]
    work = volumes(
        dataclasses.replace(
            PRESETS[preset],
            experts=bed.nodes,
            expert_span=bed.nodes,
            shard_span=bed.devices,
        )
    )
    exchange, gather, scatter, expert, dense, gradient = MEASURED[name, preset]
    model = bed.model
    gemm = model["gemm"]
    return Ratios(
        exchange=exchange / 2 / model["all_to_all"](work.exchange),
        gather=gather / model["all_gather"](work.gather),
        scatter=scatter / model["reduce_scatter"](work.scatter),
        expert=expert / (work.expert_gemms * gemm.startup + work.expert * gemm.slope),
        gradient=gradient / model["all_reduce"](work.gradient),
        dense=dense / (work.dense_gemms * gemm.startup + work.dense * gemm.slope),
    )
