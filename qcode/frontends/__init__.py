"""How people and programs meet the agent: the REPL and headless output."""
