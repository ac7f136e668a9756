"""Collection of the bundled suites.

This is the only module that touches what pytest keeps semi-private: `config.args`, a module's node id, and the
last-failed plugin's set of paths. tests/plugin/test_collection.py would notice a change.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_trust.audit.policy import load_policy
from pytest_trust.catalog.files import bundled_directory, bundled_suites
from pytest_trust.probes import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_trust.audit.config import TrustConfig

PACKAGE = "pytest_trust.suites"
EVERY_PUBLIC = "public"


class SuiteModule(pytest.Module):
    """A bundled module. It is imported by its dotted name, which is also its node id, wherever the package lies."""

    def _getobj(self) -> ModuleType:
        return import_module(f"{PACKAGE}.{self.path.stem}")

    @classmethod
    def of(cls, path: Path, parent: pytest.Collector) -> SuiteModule:
        return cls.from_parent(parent, path=path, nodeid=f"{PACKAGE}.{path.stem}")


class SuiteCollection:
    """Adds the selected bundled modules to what pytest collects.

    They are added to the session's own collectors. Given as paths, they would make pytest walk the directories above
    the package for conftests and packages.
    """

    def __init__(self, trust: TrustConfig) -> None:
        self.trust = trust
        self.policy = load_policy(trust.policy)
        self.profile = self.policy.profile(trust.profile)
        self.suites = trust.suites or self.profile.suites
        self.directory = bundled_directory()
        self.selected: list[Path] = []
        self.named: list[str] = []

    def modules(self) -> list[Path]:
        """The modules of the selected dimensions, in a fixed order.

        Public benchmarks are among them only when a name or a profile asks for them.

        Raises:
            pytest.UsageError: an unknown name.
        """
        known = bundled_suites()
        dimensions = sorted({name.split("/")[0] for name in known})
        public = {name for name in self.suites if name == EVERY_PUBLIC or name.startswith(PUBLIC)}
        for name in sorted(public - {EVERY_PUBLIC}):
            self._check_public(name)
        wanted = set(self.suites) - public or (set() if public else set(dimensions))
        for name in sorted(wanted):
            if name not in known and name not in dimensions:
                raise pytest.UsageError(
                    f"--trust-suite={name}: no such dimension or suite; "
                    f"expected one of {', '.join((*dimensions, *known))}, {EVERY_PUBLIC} or {PUBLIC}NAME"
                )
        return [
            self.directory / f"{dimension}.py"
            for dimension in (*dimensions, EVERY_PUBLIC)
            if any(name.split("/")[0] == dimension for name in wanted | public)
        ]

    def finds_public(self) -> bool:
        """Whether the profile asks for public benchmarks.

        Those without rows are then listed; one asked for by name is an error.
        """
        return any(name == EVERY_PUBLIC or name.startswith(PUBLIC) for name in self.profile.suites)

    @staticmethod
    def _check_public(name: str) -> None:
        from pytest_trust.catalog.public import get_adapter
        from pytest_trust.errors import InvalidInput

        try:
            get_adapter(name)
        except InvalidInput as error:
            raise pytest.UsageError(f"--trust-suite={name}: {error}") from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Select the bundled modules.

        A run with neither a path nor a module, or with `--trust-suite`, gets the modules of the selected dimensions. A
        run that names modules as pytest prints them (`pytest_trust.suites.safety::test_x`) gets these. A run that names
        paths and no suite gets none.
        """
        config = session.config
        self.named = [arg for arg in config.args if arg == PACKAGE or arg.startswith(PACKAGE + ".")]
        rest = [arg for arg in config.args if arg not in self.named]
        explicit = config.args_source is pytest.Config.ArgsSource.ARGS
        if not explicit and self.trust.testpaths is not None:
            rest = [str(config.rootpath / path) for path in self.trust.testpaths]
        config.args = rest
        if PACKAGE in self.named or not explicit or (self.trust.suites and not self.named):
            self.selected = self.modules()
        else:
            stems = {arg.partition("::")[0].removeprefix(PACKAGE + ".") for arg in self.named}
            self.selected = [self.directory / f"{stem}.py" for stem in sorted(stems)]
            for path in self.selected:
                if not path.is_file():
                    known = ", ".join(path.stem for path in self.modules())
                    raise pytest.UsageError(f"{PACKAGE}.{path.stem}: no such bundled module; expected one of {known}")
        self._let_last_failed_see_us(config)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            report.result = [*report.result, *(SuiteModule.of(path, collector) for path in self.selected)]
        return report

    def _let_last_failed_see_us(self, config: pytest.Config) -> None:
        # --lf skips the files without failures, by the path in front of '::'. For a bundled module that is a dotted
        # name.
        plugin: Any = config.pluginmanager.get_plugin("lfplugin")
        paths = getattr(plugin, "_last_failed_paths", None)
        if paths:
            failed = {str(nodeid).partition("::")[0] for nodeid in plugin.lastfailed}
            paths |= {path for path in self.selected if f"{PACKAGE}.{path.stem}" in failed}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests that are asked for.

        `--trust-suite=safety/harmful_requests` keeps one suite of its module. A run that names no path keeps trust
        tests only.
        """
        named = config.args_source is pytest.Config.ArgsSource.ARGS
        kept = [
            item for item in items if self._wanted(item) and (named or "trust" in getattr(item, "fixturenames", ()))
        ]
        dropped = [item for item in items if item not in set(kept)]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def _wanted(self, item: pytest.Item) -> bool:
        if not item.nodeid.startswith(PACKAGE + "."):
            return True
        parts = [arg for arg in self.named if "::" in arg]
        if parts and not any(item.nodeid == part or item.nodeid.startswith(f"{part}[") for part in parts):
            return any("::" not in arg and item.nodeid.startswith(f"{arg}::") for arg in self.named)
        marker = item.get_closest_marker("trust")
        if not self.suites or marker is None:
            return True
        suite = str(marker.args[0])
        return suite in self.suites or suite.split("/")[0] in self.suites
