"""Outside formats, one room each: the only places that name an operator of theirs."""
