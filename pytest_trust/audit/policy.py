"""The policy: margins, error rates and profiles, from the bundled thresholds and a user's file that overrides them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_trust.audit.judge_error import Accuracy
from pytest_trust.catalog.files import bundled_directory, check_keys, read_yaml
from pytest_trust.errors import InvalidInput
from pytest_trust.models.decoding import GREEDY, Decoding, checked, named_decoding
from pytest_trust.probes import CHOICES, PUBLIC, Gate, Suite

_NUMBER = (int, float)


@dataclass(frozen=True, slots=True)
class Threshold:
    """What one gate is held to.

    `margin`: the non-inferiority margin on candidate - baseline, in the metric's unit; larger is worse.
    `ceiling`: an absolute limit on the candidate's value. `never`: ids of probes that must never flip.
    `trace_margin`: the margin for the same gate on the reasoning; None where the reasoning is not gated.
    `choices`: how a choice is measured, one of `probes.CHOICES`; empty where the suite says.
    """

    margin: float
    ceiling: float | None = None
    never: tuple[str, ...] = ()
    trace_margin: float | None = None
    choices: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """The size of a run, and how its responses are generated.

    `generate` and `choose`: probes per suite of that task. `drift`: probes per suite that drift is measured on. None
    means all. `gate`: the fewest probes of every gate, where the suite has them: a suite may divide its probes among
    its gates.

    `reasoning_tokens`: the most tokens of a trace. `max_new_tokens` limits the answer behind it. With 0 the trace has
    no limit of its own, and `max_new_tokens` limits trace and answer together.

    `suites` are run where no other is selected. `max_new_tokens`, `temperature`, `top_p` and `top_k` hold for every
    response in place of the suites' own; where the first two are None, the suites' own hold.
    """

    generate: int | None
    choose: int | None
    samples: int
    drift: int | None
    reasoning_tokens: int
    gate: int = 0
    suites: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    both_choices: bool = False
    """Whether choices are measured in both ways of `probes.CHOICES`. The other way decides nothing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run is held to. `family` gates share the error rate `alpha`, even if a run selects only some of them.

    `decoding`: how the next token is chosen where no option says otherwise.
    `min_option_mass`: the least mean probability of all options of a probe together, on either side. Below it the model
    would write something else, and a choice between the options says nothing about the model.
    """

    name: str
    alpha: float
    power: float
    min_coverage: float
    max_coverage_gap: float
    min_option_mass: float
    gates: Mapping[str, Threshold]
    controls: Mapping[str, Threshold]
    profiles: Mapping[str, Profile]
    judges: Mapping[str, tuple[Accuracy, Accuracy]]
    decoding: Decoding = GREEDY

    @property
    def family(self) -> int:
        """The number of tests that share `alpha`. A gate counts twice where its reasoning is gated too."""
        return max(1, len(self.gates) + sum(gate.trace_margin is not None for gate in self.gates.values()))

    def profile(self, name: str) -> Profile:
        """The profile called `name`. Raises InvalidInput that lists the profiles."""
        if name not in self.profiles:
            raise InvalidInput(f"--trust-profile={name}: no such profile; expected one of {', '.join(self.profiles)}")
        return self.profiles[name]

    def threshold(self, gate: str) -> Threshold | None:
        return self.gates.get(gate) or self.controls.get(gate)

    def threshold_of(self, suite: Suite, gate: Gate) -> Threshold | None:
        """What a suite's gate is held to: this policy's threshold, else the gate's own margin, else None."""
        own = None if gate.margin is None else Threshold(gate.margin)
        return self.threshold(f"{suite.name}/{gate.name}") or own

    def family_of(self, suite: Suite, gate: Gate) -> int:
        """The number of gates that share the error rate, this one included.

        It is 1 for a control, the policy's `family` for a gate that the policy names, and the suite's own family for
        other gates. A suite without a family belongs to the policy's.
        """
        if suite.control:
            return 1
        own = suite.family is None or f"{suite.name}/{gate.name}" in self.gates
        return self.family if own or suite.family is None else suite.family


_KEYS = {
    "alpha": _NUMBER,
    "power": _NUMBER,
    "min_coverage": _NUMBER,
    "max_coverage_gap": _NUMBER,
    "min_option_mass": _NUMBER,
    "gates": dict,
    "controls": dict,
    "profiles": dict,
    "judges": dict,
    "decoding": (str, dict),
}
_BOUNDS = {
    "alpha": (0, 0.5),
    "power": (0.5, 1),
    "min_coverage": (0, 1),
    "max_coverage_gap": (0, 1),
    "min_option_mass": (0, 1),
}
_THRESHOLD_KEYS = {"margin": _NUMBER, "ceiling": _NUMBER, "never": list, "trace_margin": _NUMBER, "choices": str}
_ACCURACY_KEYS = {
    "positive": str,
    "sensitivity": _NUMBER,
    "specificity": _NUMBER,
    "positives": int,
    "negatives": int,
    "labels": str,
}
_SIZE = (int, type(None))
_SIZES: dict[str, Any] = {"generate": _SIZE, "choose": _SIZE, "samples": int, "drift": _SIZE, "reasoning_tokens": int}
_PROTOCOL: dict[str, Any] = {
    "gate": int,
    "suites": list,
    "max_new_tokens": int,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "top_k": int,
    "both_choices": bool,
}


def load_policy(path: Path | None = None) -> Policy:
    """The bundled policy; what the file at `path` names replaces the bundled value.

    `gates` may name a user's own gate (of a probe file that their tests judge); this gate then belongs to the family.
    Raises InvalidInput that names the file and the key.
    """
    policy = _merge(None, bundled_directory() / "thresholds.yaml", "bundled")
    return policy if path is None else _merge(policy, path, path.name)


def read_decoding(text: str, where: str) -> Decoding:
    """`greedy`, `own`, settings such as `temperature=0.6,top_p=0.95`, or the path of a YAML or JSON file with them.

    Raises InvalidInput, which begins with `where`, for anything else.
    """
    named = named_decoding(text, where)
    if named is not None:
        return named
    path = Path(text).expanduser()
    if not path.is_file():
        raise InvalidInput(
            f"{where}={text}: expected greedy, own, settings such as temperature=0.6,top_p=0.95, or a file with them"
        )
    return checked(read_yaml(path), f"{where}={text}")


def _merge(base: Policy | None, path: Path, name: str) -> Policy:
    document = read_yaml(path)
    check_keys(path, document, _KEYS, required=_KEYS if base is None else ())
    for key, (low, high) in _BOUNDS.items():
        if key in document and not low <= document[key] <= high:
            raise InvalidInput(f"{path}: {key} is {document[key]}, expected a number from {low} to {high}")
    if document.get("alpha") == 0:
        raise InvalidInput(f"{path}: alpha is 0, expected a number above 0, such as 0.05")
    sections: dict[str, dict[str, Any]] = {}
    for section, read in _SECTIONS:
        known = dict(getattr(base, section)) if base else {}
        known |= {
            key: read(f"{path}: {section}: {key}", value, known.get(key))
            for key, value in document.get(section, {}).items()
        }
        sections[section] = known
    if base is not None:
        _check_names(path, base, document.get("gates", {}))
    changes: dict[str, Any] = {key: float(document[key]) for key in _BOUNDS if key in document}
    changes |= sections
    if "decoding" in document:
        given = document["decoding"]
        where = f"{path}: decoding"
        changes["decoding"] = checked(given, where) if isinstance(given, dict) else read_decoding(given, where)
    return Policy(name=name, **changes) if base is None else replace(base, name=name, **changes)


def _threshold(where: str, document: Any, base: Threshold | None) -> Threshold:
    check_keys(where, document, _THRESHOLD_KEYS, required=() if base else ("margin",))
    margin = document.get("margin", base.margin if base else None)
    if not 0 < margin < float("inf"):
        raise InvalidInput(
            f"{where}: margin is {margin}, expected a positive number in the metric's unit "
            "(0.05 is five points of a share)"
        )
    trace_margin = document.get("trace_margin", base.trace_margin if base else None)
    if trace_margin is not None and not 0 < trace_margin < float("inf"):
        raise InvalidInput(f"{where}: trace_margin is {trace_margin}, expected a positive number in the metric's unit")
    choices = document.get("choices", base.choices if base else "")
    if choices and choices not in CHOICES:
        raise InvalidInput(f"{where}: choices is {choices!r}, expected {' or '.join(CHOICES)}")
    ceiling = document.get("ceiling", base.ceiling if base else None)
    return Threshold(
        float(margin),
        None if ceiling is None else float(ceiling),
        tuple(document.get("never", base.never if base else ())),
        None if trace_margin is None else float(trace_margin),
        choices,
    )


def _profile(where: str, document: Any, base: Profile | None) -> Profile:
    check_keys(where, document, _SIZES | _PROTOCOL, required=() if base else _SIZES)
    for key in ("max_new_tokens", "gate", *_SIZES):
        value = document.get(key)
        if value is not None and value < (0 if key in ("drift", "reasoning_tokens", "gate") else 1):
            raise InvalidInput(
                f"{where}: {key} is {value}, expected a positive number"
                + (" or null for all" if key in ("generate", "choose") else "")
            )
    if (
        not 0 <= document.get("temperature", 0) < float("inf")
        or not 0 < document.get("top_p", 1) <= 1
        or document.get("top_k", 0) < 0
    ):
        raise InvalidInput(f"{where}: expected temperature >= 0, top_p in (0, 1] and top_k >= 0")
    for name in document.get("suites", ()):
        if not isinstance(name, str):
            raise InvalidInput(f"{where}: suites has {name!r}, expected names of dimensions or suites")
    if "suites" in document:
        document = {**document, "suites": tuple(document["suites"])}
    return replace(base, **document) if base else Profile(**document)


def _judge(where: str, document: Any, base: tuple[Accuracy, Accuracy] | None) -> tuple[Accuracy, Accuracy]:
    """The accuracy on the baseline's and on the candidate's answers.

    The keys `baseline` and `candidate` override what is given for both.
    """
    sides = ("baseline", "candidate")
    keys = {**_ACCURACY_KEYS, **dict.fromkeys(sides, dict)}
    check_keys(where, document, keys, required=() if base else ("positive", "sensitivity", "specificity"))
    both = {key: value for key, value in document.items() if key not in sides}
    made = []
    for index, side in enumerate(sides):
        own = document.get(side, {})
        check_keys(f"{where}: {side}", own, _ACCURACY_KEYS, required=())
        try:
            made.append(replace(base[index], **both, **own) if base else Accuracy(**{**both, **own}))
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from None
    return made[0], made[1]


def _check_names(path: Path, base: Policy, gates: Mapping[str, Any]) -> None:
    """Refuse names that must be typing errors: no suite has the gate, yet its dimension is a bundled one.

    A user's own gate has a dimension of its own.
    """
    known = {*base.gates, *base.controls}
    dimensions = {name.split("/")[0] for name in known}
    for name in gates:
        if name.startswith(PUBLIC):
            from pytest_trust.catalog.public import get_adapter

            suite, _, gate = name.rpartition("/")
            public = [gate.name for gate in get_adapter(suite).gates]
            if gate not in public:
                raise InvalidInput(f"{path}: gates: {name}: {suite} has the gates {', '.join(public)}")
        elif name not in known and name.count("/") == 2 and name.split("/")[0] in dimensions:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            raise InvalidInput(
                f"{path}: gates: {name}: no bundled suite has this gate"
                + (f"; did you mean {near[0]}?" if near else "")
            )


_SECTIONS = (("gates", _threshold), ("controls", _threshold), ("profiles", _profile), ("judges", _judge))
