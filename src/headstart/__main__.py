"""`python -m headstart` does the same as `headstart`."""

from headstart.cli.main import main

if __name__ == "__main__":
    main()
