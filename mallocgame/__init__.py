"""The memory-mapping game: which tensor sits in fast memory, when, and at which offset."""
