"""The bundled suites: one module of tests per dimension; probes, suites and margins as data beside them."""
