# make quickstart   an environment in .venv, negguide in it, and the first pictures and a small set of hard negatives in out/
# make test         the same environment with the development tools, then lint, types and all tests
# make test-rest    what `make test` leaves out: it has every test for one pipeline of each kind, and the main ones for the others
# make test-fast    the inner loop: formulas, edits and the renderer, in about a minute on two cores
# make docs         the documentation as a site in build/site
# make test-lowest  the tests of the integration on the lowest diffusers that pyproject.toml admits, beside the tested one
# make test-comfyui the nodes of comfyui/ in the servers of two versions of ComfyUI, which are fetched once into .comfyui/
#
# A second call reinstalls nothing unless pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
# On Linux, PyPI's torch is a build of several GB for NVIDIA GPUs; a machine without one takes the build for CPUs.
# Only torch is looked up there. TORCH_INDEX= (empty) takes PyPI's build; so does a pip that is told where to look.
OWN_SOURCES := $(shell command -v nvidia-smi 2>/dev/null)$(PIP_FIND_LINKS)$(PIP_INDEX_URL)$(PIP_EXTRA_INDEX_URL)
TORCH_INDEX ?= $(if $(strip $(OWN_SOURCES)),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WANTED := negguide needs Python 3.11, 3.12 or 3.13

.PHONY: quickstart test test-rest test-lowest test-fast test-comfyui docs

quickstart: $(VENV)/.installed
	$(BIN)/negguide quickstart --out "$(OUT)"
	$(BIN)/negguide mine --data toyworld:12 --controls 0 --out "$(OUT)/hard-negatives"
	@echo "$(OUT)/hard-negatives/contact_sheet.png"
	@echo "    Captions with one thing changed in each, a picture drawn for the change, and the judge's four scores."

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-rest: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile tests/families tests/modular tests/integration --pipelines rest

COMFYUI ?= .comfyui

# 3 says that a package is not to be had, and which
test-comfyui: $(VENV)/.installed-dev
	@$(BIN)/python scripts/comfyui_environment.py "$(COMFYUI)"; status=$$?; \
	  if [ $$status = 3 ]; then echo "make test-comfyui: not tested, for the reason above"; exit 0; fi; \
	  if [ $$status != 0 ]; then exit $$status; fi; \
	  HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/comfyui --comfyui "$(COMFYUI)"

LOWEST ?= .lowest
# SeaCache, which the tests of caches need, is newer
LOWEST_TESTS ?= tests/integration tests/families tests/modular --ignore=tests/families/test_families_caches.py

test-lowest: $(LOWEST)/.installed
	HF_HUB_OFFLINE=1 PYTHONPATH="$(LOWEST)" $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(LOWEST_TESTS)

# Only diffusers: it comes before the environment's own on Python's path, and everything else is shared.
$(LOWEST)/.installed: pyproject.toml $(VENV)/.installed-dev
	rm -rf "$(LOWEST)"
	$(PIP) install --no-deps --target "$(LOWEST)" "diffusers==$$(sed -n 's/.*"diffusers>=\([0-9.]*\)".*/\1/p' pyproject.toml)"
	touch $@

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "$(WANTED); there is no '$(PYTHON)'. Name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(WANTED); '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.created
	$(PIP) install --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@

# What knows no pipeline and loads no model; for the inner loop. Left out of its folders: what interprets and compiles the
# kernel for GPUs, and what asks language models and servers.
FAST := tests/guidance --ignore=tests/guidance/test_guidance_matching_triton.py tests/test_methods.py \
        tests/test_text_files.py tests/test_image_files.py tests/test_shared_pieces.py \
        tests/mining/edits $(addprefix --ignore=tests/mining/edits/test_edits_,endpoint.py fill_mask.py llm.py) \
        tests/cli/test_cli_syntax.py tests/cli/test_cli_defaults.py \
        tests/toyworld/test_scene_and_language.py tests/toyworld/test_render.py tests/vlm/losses/test_losses_formulas.py \
        tests/vlm/evaluation/test_evaluation_metrics.py

test-fast: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(FAST)

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict
	@echo "build/site/index.html"
