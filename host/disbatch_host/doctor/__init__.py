"""What is wrong on this machine and in its store, found by somebody who changes nothing."""
