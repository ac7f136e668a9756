"""Which suites there are: the bundled ones, files of your own, and public benchmarks."""
