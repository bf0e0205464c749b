"""Child processes: starting one, its pipes, its deadlines, its end. Knows argv and bytes; never a task.

`spawn` starts a program (the only place that does), `child` follows it to its end.
"""
