"""The command line: `disbatch-host` and its subcommands (cli contract). Each group of commands has its own module,
imported only when one of them is called."""
