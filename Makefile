# moai: what a developer types. Everything lives in this folder: .venv (laptop side and tools), .venv-train
# (torch and the training libraries, the stand-in for a user's environment), .venv-38 (agent and worker on
# the oldest Python they serve), .venv-moai (only for `make test-moai-env`), .cache. Variables:
#   PYTHON       interpreter of .venv; default: the newest of 3.10 to 3.13 found, 3.11 first
#   TORCH        what .venv-train installs as torch; default torch==2.13.0
#   TORCH_INDEX  a wheel index with CPU builds of torch, for machines where plain pip would fetch a CUDA
#                build of several GB; see pytorch.org for its address: make demo TORCH_INDEX=...

SHELL := /bin/bash
PYTHON ?= $(shell scripts/find_python.sh 3.11 3.12 3.13 3.10)
PYTHON38 := $(shell scripts/find_python.sh 3.8)
PYTHON39 := $(shell scripts/find_python.sh 3.9)
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PIP := -m pip install --quiet --disable-pip-version-check
SEEDS ?= 5
WORKERS ?= 2

.PHONY: install train-env agent-env hub1-env test test-faults test-38 test-hub test-olah test-moai-env fuzz fuzz-readers soak check fix bench demo clean stubs buf audit

install: .venv/.done train-env agent-env .cache/.bundles

.venv/.done: pyproject.toml
	@test -n "$(PYTHON)" || { echo "moai needs Python 3.10 or newer here" >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) --upgrade pip
	.venv/bin/python $(PIP) -e '.[dev,plot]'
	touch $@

# torch first and alone: pip would otherwise take whatever build another package's range admits.
train-env: .venv-train/.done
.venv-train/.done: scripts/train-requirements.txt
	test -x .venv-train/bin/python || $(PYTHON) -m venv .venv-train
	.venv-train/bin/python $(PIP) --upgrade pip
	.venv-train/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	.venv-train/bin/python $(PIP) -r scripts/train-requirements.txt
	touch $@

agent-env:
ifeq ($(PYTHON38),)
	@echo "!!! no Python 3.8 was found (PATH, ~/.pyenv): agent and worker are NOT tested on their oldest Python" >&2
else
	@$(MAKE) --no-print-directory .venv-38/.done
endif
.venv-38/.done: scripts/py38-requirements.txt
	test -x .venv-38/bin/python || $(PYTHON38) -m venv .venv-38
	.venv-38/bin/python $(PIP) --upgrade pip
	.venv-38/bin/python $(PIP) -r scripts/py38-requirements.txt
	touch $@

# The agent's wheels for the Pythons that tests put on their containers, so that no test asks an index.
.cache/.bundles: .venv/.done client/moai/_bootstrap/locks
	.venv/bin/python scripts/fetch_bundles.py
	touch $@

test: install test-38 test-hub
	.venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not faults and not olah" tests

test-38:
ifneq ($(PYTHON38),)
	.venv-38/bin/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not faults and not olah" tests/agent tests/worker
endif

# The files that need huggingface_hub itself, under 2.x, 1.x (Python 3.9) and 0.36 (Python 3.8).
HUB_TESTS := tests/worker/test_hub_libraries.py tests/worker/test_download_process.py
test-hub: install hub1-env
	$(call hub_tests,.venv-train,2.x)
	$(call hub_tests,.venv-hub1,1.x)
	$(call hub_tests,.venv-38,0.36)
define hub_tests
	@if $(1)/bin/python -c 'import huggingface_hub as h; print("huggingface_hub", h.__version__)' 2>/dev/null; then \
	  $(1)/bin/python -m pytest -q $(HUB_TESTS); \
	else echo "!!! $(1) has no huggingface_hub: downloads are NOT tested with $(2)" >&2; fi
endef

hub1-env:
ifeq ($(PYTHON39),)
	@echo "!!! no Python 3.9 was found (PATH, ~/.pyenv): downloads are NOT tested with huggingface_hub 1.x" >&2
else
	@$(MAKE) --no-print-directory .venv-hub1/.done
endif
.venv-hub1/.done: scripts/hub1-requirements.txt
	test -x .venv-hub1/bin/python || $(PYTHON39) -m venv .venv-hub1
	.venv-hub1/bin/python $(PIP) --upgrade pip
	.venv-hub1/bin/python $(PIP) -r scripts/hub1-requirements.txt
	touch $@

# The stand-in Hub beside olah; needs git-lfs (apt-get install git-lfs). Not part of test.
test-olah: .venv/.done
	@if command -v git-lfs >/dev/null; then \
	  $(MAKE) --no-print-directory .venv-olah/.done && \
	  MOAI_OLAH=$(CURDIR)/.venv-olah/bin/python .venv/bin/python -m pytest -q -m olah tests/worker/test_hub_against_olah.py; \
	else echo "!!! git-lfs is missing (apt-get install git-lfs): the stand-in Hub was NOT compared with olah" >&2; fi
.venv-olah/.done: scripts/olah-requirements.txt
	test -x .venv-olah/bin/python || $(PYTHON) -m venv .venv-olah
	.venv-olah/bin/python $(PIP) -r scripts/olah-requirements.txt
	touch $@

LONG_WORKER_TESTS := $(addprefix tests/worker/test_,download_process.py train.py environment_step.py)
test-faults: install
	MOAI_TEST_SEEDS=20 MOAI_TEST_FLEET=16 .venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests/contract tests/e2e $(LONG_WORKER_TESTS)

# Spoilt inputs at every reader, other ones each time, FUZZ_SECONDS for each; a failure names its number.
FUZZ_SECONDS ?= 60
fuzz: .venv/.done
	FUZZ_SECONDS=$(FUZZ_SECONDS) .venv/bin/python -m pytest -q -s -n $(WORKERS) tests/fuzz

# A day of faults in minutes: SOAK_FAULTS of them at several jobs of one container; the report is a file.
SOAK_FAULTS ?= 500
SOAK_SEED ?=
SOAK_REPORT ?= soak-report.json
soak: .venv/.done .cache/.bundles
	.venv/bin/python tests/soak/soak.py --faults $(SOAK_FAULTS) $(if $(SOAK_SEED),--seed $(SOAK_SEED)) --report $(SOAK_REPORT)

# A MoAI container's libraries on a real Python 3.8: 3.6 GB and some minutes, once; not part of `make test`.
test-moai-env: .venv/.done .venv-moai/.done
	MOAI_ENV_PYTHON=$(CURDIR)/.venv-moai/bin/python .venv/bin/python -m pytest -q tests/worker/test_moai_env.py
.venv-moai/.done: scripts/moai-requirements.txt
	@test -n "$(PYTHON38)" || { echo "a Python 3.8 is needed (PATH, ~/.pyenv)" >&2; exit 1; }
	test -x .venv-moai/bin/python || $(PYTHON38) -m venv .venv-moai
	.venv-moai/bin/python $(PIP) -r scripts/moai-requirements.txt
	touch $@

check: .venv/.done stubs buf
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/vermin -q --no-tips -t=3.8- --violations --eval-annotations agent
	PYTHONPATH=client:proto:agent .venv/bin/lint-imports --no-cache
	.venv/bin/python scripts/check_sizes.py
	.venv/bin/python scripts/reference.py --check

fix: .venv/.done
	.venv/bin/ruff check --fix .
	sh scripts/gen_protos.sh

stubs: .venv/.done
	@rm -rf .cache/stubs && sh scripts/gen_protos.sh .cache/stubs
	@diff -rq -x '*.proto' -x __init__.py -x __pycache__ proto/moai_proto/v1 .cache/stubs/moai_proto/v1 \
	  || { echo "the committed stubs differ from what the .proto files give: make fix" >&2; exit 1; }

# buf lies as a binary inside its npm package; without npm the lint is said to be skipped.
BUF := node_modules/.bin/buf
buf:
	@if command -v npm >/dev/null; then \
	  test -x $(BUF) || npm install --silent --no-save --no-audit --no-fund --ignore-scripts @bufbuild/buf@1.75.0; \
	  $(BUF) lint proto && echo "buf lint: clean"; \
	else echo "!!! npm is missing: buf lint of proto/ was SKIPPED" >&2; fi

# Advisories come over the network; AUDIT=--strict fails where they cannot be had (releases).
audit: .venv/.done
	.venv/bin/python scripts/audit.py $(AUDIT)

# Readers of files that others wrote, with many more examples than `make test` takes.
FUZZ_EXAMPLES ?= 20000
fuzz-readers: .venv/.done
	MOAI_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) .venv/bin/python -m pytest -q --timeout 3600 tests/client/test_fuzz_readers.py

bench: install
	.venv/bin/python benchmarks/run.py $(BENCH)

demo: .venv/.done train-env
	.venv/bin/python scripts/demo.py

clean:
	rm -rf .venv .venv-train .venv-38 .venv-hub1 .venv-olah .venv-moai .cache node_modules demo-output dist
