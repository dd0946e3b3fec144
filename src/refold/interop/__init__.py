"""Weights of other frameworks, read without them and put into the blocks of `refold.nn`; one file a framework."""
