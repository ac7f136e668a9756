import pytest

pytest.register_assert_rewrite("tests.support")  # before tests/conftest.py imports from it
pytest_plugins = ["pytester"]
