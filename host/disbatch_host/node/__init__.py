"""The execution node: its life, its runs, its claims, its duties."""
