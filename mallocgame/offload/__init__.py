"""Offload on GPUs: what goes to the host's memory and when, offsets in HBM; packing on CPUs.

python -m mallocgame.search DUMP --target gpu-h100 --fast-bytes 24GiB
mallocgame.offload.names("out/mapping.json").policy()      # for jax.checkpoint
"""

from mallocgame.offload.naming import Names, names, record

__all__ = ["Names", "names", "record"]
