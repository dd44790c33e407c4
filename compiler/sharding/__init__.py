"""How a JAX program is cut over a mesh of devices: the game, its cost, and its peers."""
