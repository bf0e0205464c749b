"""One attempt at one task. Never a store (only a `Recorder`), never which queue is next."""
