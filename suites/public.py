"""Public benchmarks, by adapter: one test per gate.

They are collected only on request: --trust-suite=public/xstest or --trust-profile=public.
"""

import pytest

from pytest_trust.catalog.public import public_gates


@pytest.mark.parametrize(
    ("suite", "gate"),
    [
        pytest.param(suite, gate, marks=pytest.mark.trust(suite), id=f"{suite.removeprefix('public/')}-{gate}")
        for suite, gate in public_gates()
    ],
)
def test_public(trust, suite, gate):
    assert trust.compare(suite, gate).held
