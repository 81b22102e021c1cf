"""Both loops on one experiment: the only place, besides the command line, that knows the two."""
