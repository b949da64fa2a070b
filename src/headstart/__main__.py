"""`python -m headstart` is `headstart`."""

from headstart.cli.main import main

if __name__ == "__main__":
    main()
