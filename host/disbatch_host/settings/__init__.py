"""What the program was told: one table of settings, and all that comes from it."""
