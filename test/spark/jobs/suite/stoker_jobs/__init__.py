"""Jobs for the tests: see the modules. Config and result of each are in its docstring."""
