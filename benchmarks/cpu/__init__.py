"""Our engine beside llama.cpp on the CPU: `python -m benchmarks.cpu MODEL.gguf`."""
