"""`python -m tidegate`."""

from tidegate.command import main

main()
