"""What :mod:`train.doctor` looks at, one file for each part of a machine.

Every check is a pair: a function that gathers facts, and a pure one that judges them, which is the one worth testing.
Promises that importing these files loads neither torch nor DALI: either may be what is broken.
"""
