"""Products in C++ for attention over many short runs on a CPU, built when a model is loaded with `compile`."""
