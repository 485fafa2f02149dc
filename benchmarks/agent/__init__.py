"""How many small repairs a model gets done: projects with a failing test, judged by that test and
by hidden ones."""
