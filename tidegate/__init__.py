"""The command line, and the whole system as processes of one machine."""
