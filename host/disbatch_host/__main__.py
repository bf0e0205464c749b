"""`python -m disbatch_host` is `disbatch-host`."""

from disbatch_host.cli.main import main

if __name__ == "__main__":
    main()
