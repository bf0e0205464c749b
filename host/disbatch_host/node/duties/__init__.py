"""The duties of a node: everything that it repeats besides claiming and running."""
