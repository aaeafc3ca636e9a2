"""The trainer: methods and their losses, recipes, the loop, checkpoints, evaluation and the report of a run."""
