"""Child processes: starting them, their pipes, their deadlines, their end. Knows argv and bytes; never a task.

`spawn` starts a program (the only place that does), `child` follows it to its end.
"""
