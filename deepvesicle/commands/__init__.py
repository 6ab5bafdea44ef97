"""The command line: one module a command.

A command module holds one function with Typer's annotations and imports nothing but typer and light modules at its top:
what it needs to work is imported inside the function, so that ``deepvesicle --help`` starts at once.
"""
