"""The engines that need no training, and the command kit. They know no domain."""
