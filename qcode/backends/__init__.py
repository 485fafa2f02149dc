"""Model access: the bundled engine, any Chat Completions URL, a script."""
