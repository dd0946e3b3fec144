# Everything runs from .venv, which is made on first use and again whenever pyproject.toml or constraints.txt change.
# Another interpreter: make PYTHON=/path/to/python3.12 test

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := $(wildcard src tests examples benchmarks)
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.SILENT:
.PHONY: help demo test lint format bench fuzz movielens clean

help: ## list what can be made
	echo "make demo     train a small network on handwritten digits, fold it, prove it, measure it (under 5 minutes)"
	echo "make test     lint, type check and run every test"
	echo "make test-paddle   compare with PaddlePaddle itself, in an environment of its own (a 200 MB download)"
	echo "make lint     lint and type check only"
	echo "make format   format the code and apply the linter's safe fixes"
	echo "make fuzz     fold random networks and compare them with the original: make fuzz MINUTES=10 SEED=1"
	echo "make bench    run the benchmarks and print their ratios"
	echo "make kills    kill saves at every call that changes a file and 300 times at random (a few minutes)"
	echo "make hostile  feed the command line every invalid and hostile file (some ten minutes)"
	echo "make mutants  change one thing of refold's own code at a time and see a test fail: N=300 changes drawn by SEED (about an hour)"
	echo "make mutants-proof   the same changes: where one makes a fold wrong, the proof has to object by itself"
	echo "make movielens   next-item recommendation: full attention against segments (about half an hour)"
	echo "make clean    remove .venv, caches and build artefacts"

demo: $(STAMP)
	$(BIN)/python examples/digits/demo.py

test: lint
	$(BIN)/pytest -q -n 2 --durations 5 --durations-min 2

.PHONY: test-paddle
test-paddle: $(STAMP) .venv-paddle/.installed
	REFOLD_PADDLE=$(CURDIR)/.venv-paddle/bin/python $(BIN)/pytest -q tests/paddle

.venv-paddle/.installed: tests/paddle/requirements.txt | $(STAMP)
	echo "Installing PaddlePaddle into .venv-paddle; the first time takes a minute or two"
	$(BIN)/python -m venv --clear .venv-paddle
	echo '*' > .venv-paddle/.gitignore
	.venv-paddle/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore -r $<
	touch $@

lint: $(STAMP)
	echo "ruff: lint and format"
	$(BIN)/ruff check -q $(CODE)
	$(BIN)/ruff format -q --check $(CODE)
	echo "mypy: types"
	$(BIN)/mypy --no-error-summary $(CODE)

format: $(STAMP)
	$(BIN)/ruff check -q --fix $(CODE) || true
	$(BIN)/ruff format $(CODE)

.PHONY: hostile
hostile: $(STAMP) ## invalid and hostile files: exit status 2 and nothing written
	$(BIN)/python -m benchmarks.hostile_files

bench: $(STAMP)
	set -e; for file in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py); done

.PHONY: kills
kills: $(STAMP)
	$(BIN)/python -m tests.files.kills $(SEED)

.PHONY: mutants mutants-proof
N ?= 300
MUTANTS = $(BIN)/python -m tests.mutation --count $(N) $(if $(SEED),--seed $(SEED))

mutants: $(STAMP)
	$(MUTANTS)

mutants-proof: $(STAMP)
	$(MUTANTS) --proof

.PHONY: fuzz
MINUTES := 10

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONPATH=src $(BIN)/python -m tests.fuzz run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

movielens: $(STAMP)
	$(BIN)/python -m examples.movielens

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): pyproject.toml constraints.txt
	set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		found=; \
		for candidate in $(CANDIDATES); do \
			if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "refold needs Python 3.11 or later with its venv and ensurepip modules; none of these is one: $(CANDIDATES)." >&2; \
			echo "Install one (on Debian and Ubuntu also its python3-venv package), or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
			exit 1; \
		fi; \
		echo "Creating $(VENV) with $$("$$found" -V)"; \
		"$$found" -m venv --clear $(VENV); \
	fi; \
	echo "Installing refold and its tools into $(VENV); the first time takes a minute or two"; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore -c constraints.txt -e '.[dev]'; \
	touch $@
