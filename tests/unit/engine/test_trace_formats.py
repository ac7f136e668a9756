"""A model whose template has a format of its own is read in that format, with no option and no table."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.model import ReadFormat
from pytest_trust.models.identity import lineage
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.responses import Generation, Job
from tests.support.scripted_models import TEMPLATE, scripted_model

# No table knows these marks.
OWN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant> "
    "{% if m.reasoning_content %}<plan> {{ m.reasoning_content }} </plan> {% endif %}{{ m.content }} <end> "
    "{% else %}<{{ m.role }}> {{ m.content }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SAID = "<plan> first </plan> I cannot"
JOB = Job("dim/ask", "generate", (Probe("p", "p", (Message("user", "ask"),)),), Generation(16), drift=frozenset({"p"}))


JOB_CODE = (
    "from pytest_trust.probes import Message, Probe\n"
    "from pytest_trust.responses import Generation, Job\n"
    "JOB = Job('dim/ask', 'generate', (Probe('p', 'p', (Message('user', 'ask'),)),), Generation(16), "
    "drift=frozenset({'p'}))"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return parse_reference(str(scripted_model(tmp_path_factory.mktemp("models") / "own", SAID, template=OWN)))


def test_trace_and_answer_are_told_apart_by_the_model_s_own_template(model: Reference, tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        engine.acquire([JOB], [model])
        ((response,),) = engine.model(model).responses(JOB).values()
        assert engine.model(model).tags[0][:2] == ("<plan>", "</plan>")
        assert engine.model(model).read_format == ReadFormat("<plan> … </plan>", "its template")
    assert (response.reasoning.strip(), response.answer.strip()) == ("first", "I cannot")


def test_tags_that_a_user_gives_go_before_the_template(model: Reference, tmp_path: Path) -> None:
    with Engine(tmp_path, reasoning_tags=(*DEFAULT_TAGS, ("[plan]", "[/plan]"))) as engine:
        engine.acquire([JOB], [model])
        ((response,),) = engine.model(model).responses(JOB).values()
        assert engine.model(model).read_format == ReadFormat("[plan] … [/plan]", "--trust-reasoning-tags")
    assert (response.reasoning, response.answer.strip()) == ("", SAID)


def test_a_template_without_a_trace_leaves_the_known_formats(tmp_path: Path) -> None:
    plain = parse_reference(str(scripted_model(tmp_path / "plain", SAID, template=TEMPLATE)))
    with Engine(tmp_path / "store") as engine:
        assert engine.model(plain).tags == DEFAULT_TAGS
        assert engine.model(plain).read_format == ReadFormat("", "none")


def test_a_recording_keeps_the_format(model: Reference, tmp_path: Path) -> None:
    with Engine(tmp_path / "store") as engine:
        write_recording(tmp_path / "own.trust", LocalExecutor(engine), model, [JOB])
        live = engine.model(model).responses(JOB)
        assert engine.model(model).said(JOB, engine.model(model))["p"].traced
    recorded = parse_reference(str(tmp_path / "own.trust"))
    with Engine(tmp_path / "other") as engine:
        assert engine.model(recorded).responses(JOB) == live
        assert engine.model(recorded).read_format == ReadFormat("<plan> … </plan>", "its template")
    with zipfile.ZipFile(tmp_path / "own.trust") as archive:
        assert json.loads(archive.read("manifest.json"))["tags"]


def test_the_clock_of_a_recording_is_that_of_a_model(tmp_path: Path) -> None:
    path = scripted_model(tmp_path / "dated", SAID, template="{{ strftime_now('%Y') }} " + OWN)
    model, other = parse_reference(str(path)), parse_reference(f"{path}?date=2024-12-24")
    with Engine(tmp_path / "store") as engine:
        for name, reference in (("same", model), ("other", other)):
            write_recording(tmp_path / f"{name}.trust", LocalExecutor(engine), reference, [JOB])
        live = engine.identify(model)
        kept = [engine.identify(parse_reference(str(tmp_path / f"{name}.trust"))) for name in ("same", "other")]
    assert [lineage(live, one) for one in kept] == ["same", "weights"]
    assert [one.settings for one in kept] == ["", "date=2024-12-24"]


def test_a_run_from_the_store_loads_no_tokenizer(model: Reference, tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        engine.acquire([JOB], [model])
        expected = engine.model(model).responses(JOB)["p"][0].answer
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_trust.engine.engine import Engine\n"
        "from pytest_trust.models.reference import parse_reference\n"
        f"{JOB_CODE}\n"
        "heavy = set(sys.modules) & {'torch', 'transformers'}\n"
        "with Engine(Path(sys.argv[1])) as engine:\n"
        "    print(engine.model(parse_reference(sys.argv[2])).responses(JOB)['p'][0].answer)\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers'} - heavy))\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path), model.text]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [expected, "[]"]
