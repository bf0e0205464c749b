"""The command line: `disbatch-host` and its subcommands (cli contract). Each group of commands is a module of its own,
imported only when one of them is called."""
