"""The training process and its machine: how it is started, stopped, told of and kept safe."""
