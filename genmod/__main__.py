"""`python -m genmod` is the command `genmod`."""

from genmod.cli import main

main()
