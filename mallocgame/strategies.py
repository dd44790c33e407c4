"""The names that `--strategy` takes. No JAX here: a wrong one is refused at once."""

# The game's own; `auto` takes turns between `climb` and `mcts`, `muzero` is the learning agent.
OWN = ("auto", "climb", "mcts", "muzero", "msa", "greedy")
# Those of `solvers.strategies` that can search mappings. Not `cma`, for the advice is no number, and
# not `beam`: one pass over a thousand accesses takes minutes, and only then can it stop.
ENGINE = ("random", "local", "annealing", "evolution", "brkga", "predicted")
ALL = OWN + ENGINE
# These only play one plan.
SINGLE = ("msa", "greedy")
