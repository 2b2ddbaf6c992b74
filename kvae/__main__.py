"""`python -m kvae` is the `kvae` command."""

from kvae.cli.main import main

if __name__ == "__main__":
    main()
