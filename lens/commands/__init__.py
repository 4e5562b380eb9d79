"""The commands of ``python -m lens``: each module adds its parser and runs it.

A module here imports the heavy parts of ``lens`` inside its functions, so that ``--help`` and a mistyped argument are
answered at once.
"""
