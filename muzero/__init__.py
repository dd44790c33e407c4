"""The learning agent. Nothing here yet."""
