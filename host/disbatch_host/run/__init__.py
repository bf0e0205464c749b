"""One attempt at one task. Never a store (a `Recorder`), never which queue is next."""
