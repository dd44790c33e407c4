"""What instructions cost: counted work, and what the compiler measured."""
