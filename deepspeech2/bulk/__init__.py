"""Recognise thousands of hours on many processes or machines, and go on where it was stopped."""
