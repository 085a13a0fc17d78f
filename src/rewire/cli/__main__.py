"""Lets `python -m rewire.cli` stand for `rewire`."""

from rewire.cli import main

if __name__ == "__main__":  # a worker process imports this file too
    main()
