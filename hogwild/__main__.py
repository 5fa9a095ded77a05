"""`python -m hogwild` is the command `hogwild`."""

from hogwild.cli import main

main()
