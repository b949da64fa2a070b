# Each command sets everything up by itself, from the hashed lock files.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-jax lint docs lock

demo: .venv/ready
	$(BIN)/headstart train --data digits --recipe starter --image-size 8 --hidden-units 0 --no-flip --out runs/demo --overwrite
	$(BIN)/python -c "from sklearn.datasets import load_digits as l; from PIL import Image; \
	  Image.fromarray((l().images[7] * 15.9).astype('uint8')).save('runs/demo/seven.png')"
	$(BIN)/headstart predict runs/demo runs/demo/seven.png
	@echo "open runs/demo/report.html"

test: .venv/ready-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q

# On JAX, without TensorFlow: what a user does first, what is JAX's own, and several devices and processes.
ON_JAX := tests/test_backends.py tests/test_following.py tests/model/test_augmentation.py tests/system/test_choice.py \
  tests/system/test_compiled.py tests/training/test_devices.py tests/training/test_stages.py

test-jax: .venv-jax/ready
	.venv-jax/bin/python -m pytest -q $(ON_JAX)
	XLA_FLAGS=--xla_force_host_platform_device_count=8 .venv-jax/bin/python -m pytest -q tests/system/test_keras_internals.py

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All pages anew (-E), since a warning of a page that has not changed would not come again.
docs: .venv/ready-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -E docs build/docs
	@echo "look at build/docs/index.html"

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

.venv-jax/ready: .ci/jax.lock pyproject.toml
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/pip install --quiet --require-hashes -r .ci/jax.lock
	.venv-jax/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

COMPILE := uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header pyproject.toml

lock:
	$(COMPILE) --extra build -o requirements.lock
	$(COMPILE) --extra build --extra dev -c requirements.lock -o requirements-dev.lock
	printf 'tensorflow\ntensorflow-cpu\n' | \
	  $(COMPILE) .ci/jax.in --excludes - --extra build --extra jax -c requirements-dev.lock -o .ci/jax.lock
	uv pip compile --quiet --universal --no-deps --generate-hashes --no-annotate --no-header .ci/hub.in -o .ci/hub.lock
