# Every target makes the environment it needs, .venv (the site's is .venv-docs), from the lock; nothing is installed outside the checkout.
# Where several Pythons are at hand, that of the tests comes first: PYTHON=python3.13 chooses another.
FITS := 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
PYTHON := $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(shell $(p) -c $(FITS) 2>/dev/null && echo $(p))))
PYTHON_FITS = $(or $(PYTHON),python3) -c $(FITS) 2>/dev/null || { echo "Assay needs Python 3.11 to 3.14 with venv: $(or $(PYTHON),none was found)"; exit 1; }
RUN := .venv/bin/python
# model:options of the rows of the speed table
STEPS := gan:--preset:paper:--batch:64 gan:--preset:paper:--batch:256 vae:--preset:paper:--batch:128 gpt:--batch:12 \
  gpt:--preset:small:--batch:32 seq2seq:--batch:32 diffusion

.PHONY: help demo test test-all bench parity report docs docs-check gpu-check clean
help:
	@echo "make demo      train a GAN, a VAE and a GPT in front of you, then open runs/demo/index.html"
	@echo "make test      the test suite"
	@echo "make test-all  the same and everything that takes longer"
	@echo "make bench     time the training steps and operations beside PyTorch's, on an idle machine (half an hour)"
	@echo "make parity    test everything against PyTorch again and write the parity report, bench/results/parity.md and .html"
	@echo "make gpu-check what only an NVIDIA GPU can prove (PART=, OUT=, LIMIT=; DRY=1 walks through it without one)"
	@echo "make report    all tables, pages and pictures again, from what is recorded"
	@echo "make docs      all pages and the API as a site: open site/index.html"
	@echo "make docs-check the site, page by page, in an installed Chromium"
	@echo "make lock      pin every package again, for Python 3.11 to 3.14"

.venv/base: locks/base.txt pyproject.toml
	@$(PYTHON_FITS)
	@[ -x $(RUN) ] || $(PYTHON) -m venv .venv
	@echo "installing what the models need into .venv ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r locks/base.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .  # .venv/bin/assay
	@touch $@

.venv/test: .venv/base locks/test.txt
	@echo "installing what the tests need into .venv ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r locks/test.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps triton==3.6.0  # CUDA builds of torch pin their own
	@touch $@

# The site is built apart from what it describes: its packages need neither the models' nor the tests'.
.venv-docs/made: locks/docs.txt
	@$(PYTHON_FITS)
	@[ -x .venv-docs/bin/python ] || $(PYTHON) -m venv .venv-docs
	@echo "installing what the site needs into .venv-docs ..."
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r locks/docs.txt
	@touch $@

# The CPU kernels, compiled where the sources have changed since; else this takes a second or two.
.PHONY: kernels
kernels: .venv/base
	@.venv/bin/assay kernels build

demo: kernels
	@.venv/bin/assay demo

# Two processes, each with whole files, so that what a file's tests share is made once; no library's threads spin on the
# cores that the other process needs, which made whole models take twice as long.
PYTEST = OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: .venv/test kernels
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(PYTEST) -m "not full" --durations=10

test-all: .venv/test kernels
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(PYTEST) --resume --durations=25

bench: .venv/test kernels
	@for row in $(STEPS); do .venv/bin/assay bench step $$(echo $$row | tr : ' ') --record || exit 1; done
	@.venv/bin/assay bench ops --record
	@.venv/bin/assay bench report

parity: .venv/test kernels
	.venv/bin/assay parity --report

report: .venv/test
	.venv/bin/assay bench report

docs: .venv-docs/made
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build
	@echo "open site/index.html, or for searching: python3 -m http.server --directory site"

docs-check: docs
	@.venv-docs/bin/python docs/check_site.py

# With the machine's own python3, which has CuPy, Triton and torch; nothing is installed. DRY=1 needs no GPU.
gpu-check: $(if $(DRY),.venv/test)
	$(if $(DRY),TRITON_INTERPRET=1 $(RUN) -m tests.fakes.gpu_check,python3 -m bench.gpu.check) $(if $(PART),--part $(PART)) \
	  $(if $(OUT),--out $(OUT)) $(if $(LIMIT),--limit $(LIMIT))

# The locks, for every Python that pyproject.toml admits; pins that still fit stay. Triton 3.6's interpreter wants a NumPy
# below 2.4, so base and tests have that one. torch's CPU build needs no package of CUDA, and Triton is installed apart.
.PHONY: lock
LOCK = .venv-lock/bin/uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11
lock:
	@$(PYTHON_FITS)
	@[ -x .venv-lock/bin/uv ] || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@echo 'numpy<2.4' > .venv-lock/numpy && echo 'setuptools>=77' > .venv-lock/build
	@$(LOCK) pyproject.toml .venv-lock/build -c .venv-lock/numpy -o locks/base.txt
	@$(LOCK) pyproject.toml --extra test -c locks/base.txt -c locks/test.txt -o .venv-lock/test
	@{ echo '-r base.txt'; grep -vxFf locks/base.txt .venv-lock/test | grep -vE '^(nvidia|cuda|triton)'; } > locks/test.txt
	@$(LOCK) --group pyproject.toml:docs -o locks/docs.txt

clean:
	rm -rf .venv .venv-docs .venv-lock site runs .pytest_cache .mypy_cache .ruff_cache
