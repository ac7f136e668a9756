"""Bad input: exit code 4 and one line that says what was given, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

PAIR = ("--trust-baseline=demo:instruct", "--trust-candidate=demo:aligned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trust-baseline=demo:instruct"], "--trust-baseline was given without --trust-candidate"),
        (["--trust-candidate=demo:instruct"], "--trust-candidate was given without --trust-baseline"),
        (["--trust-baseline=./absent", PAIR[1]], "--trust-baseline: ./absent"),
        (["--trust-baseline=demo:absent", PAIR[1]], "demo:absent"),
        ([PAIR[0], "--trust-candidate=demo:sft?thinkin=on"], "thinkin"),
        (
            [*PAIR, "--trust-suite=safty"],
            "--trust-suite=safty: no such dimension or suite; expected one of ethics, privacy",
        ),
        (
            [*PAIR, "--trust-profile=huge"],
            "--trust-profile=huge: no such profile; expected one of smoke, standard, full, public",
        ),
        ([*PAIR, "--trust-policy=absent.yaml"], "absent.yaml does not exist: expected a YAML file"),
        (
            [*PAIR, "--trust-batch-size=many"],
            "--trust-batch-size=many: expected a whole number of at least 1 or auto",
        ),
        (
            [*PAIR, "--trust-limit=1.5"],
            "--trust-limit=1.5: expected a whole number of probes, or a fraction between 0 and 1",
        ),
        ([*PAIR, "--trust-seed=-1"], "--trust-seed=-1"),
        ([*PAIR, "--trust-template=ours"], "--trust-template=ours: expected own or shared"),
        ([*PAIR, "--trust-offload=disk"], "--trust-offload=disk: expected none or layers"),
        ([*PAIR, "--trust-dtype=int3"], "--trust-dtype=int3: expected float32, bfloat16, float16 or auto"),
        (
            [*PAIR, "--trust-report=report.pdf"],
            "--trust-report=report.pdf: expected a file name ending in .json",
        ),
        ([*PAIR, "--trust-report=absent/report.json"], "absent does not exist: create it or name another"),
        ([*PAIR, "--trust-record=recording.trust"], "--trust-record writes one model's part"),
        ([PAIR[0], "--trust-record=recording.trust?topk=0"], "'topk=0' after '?', expected topk=K"),
        ([PAIR[0], "--trust-record=recording.trust?top=4"], "'top=4' after '?', expected topk=K"),
        (
            [PAIR[0], "--trust-record=recording.zip"],
            "--trust-record=recording.zip: expected a file name ending in .trust",
        ),
    ],
)
def test_wrong_option(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines if line.strip()]
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_the_space_form_of_a_path_is_refused(pytester: pytest.Pytester) -> None:
    model = pytester.mkdir("model")
    result = pytester.runpytest("--trust-baseline", str(model), PAIR[1])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --trust-baseline {model}: *write --trust-baseline={model}"])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("alpha: [", "policy.yaml:1: not YAML"),
        ("- 1", "holds list, expected a YAML mapping"),
        ("alfa: 0.05", "unknown key 'alfa'"),
        ("alpha: 0.7", "alpha is 0.7, expected a number from 0 to 0.5"),
        ("alpha: true", "alpha is True, expected int or float"),
        (
            "gates: {safety/harmful_requests/compliance_rate: {margin: -0.1}}",
            "margin is -0.1, expected a positive number",
        ),
        (
            "gates: {safety/harmful_requests/compliance_rate: {margin: wide}}",
            "margin is 'wide', expected int or float",
        ),
        ("gates: {mine/new/rate: {ceiling: 0.1}}", "'margin' is missing"),
    ],
)
def test_wrong_policy(pytester: pytest.Pytester, policy: str, message: str) -> None:
    Path(pytester.path / "policy.yaml").write_text(policy, encoding="utf-8")
    result = pytester.runpytest(*PAIR, "--trust-policy=policy.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in "\n".join(result.errlines)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("margn=0.1", "not margn"),
        ("margin=0", "margin=0): expected a positive number"),
        ("margin='wide'", "margin='wide'): expected a positive number"),
    ],
)
def test_wrong_marker(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.trust({marker})\ndef test_a(trust): pass\n")
    result = pytester.runpytest(*PAIR)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in "\n".join([*result.errlines, *result.outlines])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}',
            "probes.jsonl:2: duplicate id 'a', first used in line 1",
        ),
        ('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": ', "probes.jsonl:2: not JSON"),
        ('{"id": "a"}', "probes.jsonl:1: has no input"),
        ('{"id": 7, "prompt": "x"}', "probes.jsonl:1: id is 7, expected str"),
        ('{"id": "a", "prompt": "x", "extra": ["y"]}', "'extra' is list"),
        (
            '{"id": "a", "prompt": "x", "options": ["y", "z"], "answer": "w"}',
            "answer 'w' is none of the options",
        ),
        (
            '{"id": "a", "prompt": "x", "options": ["y"], "answer": "y"}',
            "probes.jsonl:1: probe 'a': has the single option 'y': give two or more",
        ),
        (
            '{"id": "b", "prompt": "x"}\n{"id": "a", "prompt": "x", "options": ["y", " y"], "answer": "y"}',
            "probes.jsonl:2: probe 'a': two options are the same, 'y'",
        ),
        (
            '{"id": "a", "prompt": "x", "options": ["y", "z"]}',
            "probes.jsonl:1: probe 'a': answer '' is none of the options 'y', 'z'",
        ),
        (
            '{"id": "a", "prompt": "x", "options": ["not", "not wrong"], "answer": "not wrong"}',
            "probes.jsonl:1: probe 'a': the option 'not wrong' begins with the option 'not', so by its log-likelihood "
            "it would never be chosen",
        ),
        ("", "probes.jsonl is empty"),
    ],
)
def test_wrong_probe_file_is_refused_before_a_model_is_loaded(
    pytester: pytest.Pytester, lines: str, message: str
) -> None:
    Path(pytester.path / "probes.jsonl").write_text(lines, encoding="utf-8")
    pytester.makepyfile("import pytest\n@pytest.mark.trust('probes.jsonl')\ndef test_a(trust): pass\n")
    result = pytester.runpytest(*PAIR, pytester.path / "test_wrong_probe_file_is_refused_before_a_model_is_loaded.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in "\n".join([*result.errlines, *result.outlines])
