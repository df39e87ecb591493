"""Version 1 of the contract: generated modules, committed, never edited by hand."""
