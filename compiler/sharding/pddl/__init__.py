"""The combinatorial core of automatic sharding: instances of the ASPLOS 2025 contest on intra-operator parallelism.

Nodes each choose one strategy; nodes and edges have costs; the memory of the choices alive at any time has a limit.

instance = instance.read("asplos-2025-iopddl-B.json.gz")
for step in decomposition.search(instance, Meter(Budget(seconds=60)), seed=0): ...
step.assignment, step.cost, step.bound
"""
