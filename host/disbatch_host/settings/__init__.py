"""The settings of the program: the one table of them, and everything that is derived from it."""
