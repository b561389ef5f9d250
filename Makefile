# Two commands do everything on a machine with Python >= 3.11, make and a C compiler:
#   make demo    install, then run the main job on the suite in data/
#   make test    install with the test tools, then run every check
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles what is imported, once; pip would compile the 15,000 files of torch and its like that nobody imports.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Tests and benchmarks start many processes, each of which would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test soak mutants lint docs bench gpu comparison examples suite study laboratory figures clean help

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ninscope needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# An editable install is asked last, so a folder ninscope/ beside a script, such as this clone, would hide it. A path is not.
TREE := import pathlib, sysconfig; \
	paths = [str(pathlib.Path(name).resolve()) for name in ("src", "pipeline")]; \
	pathlib.Path(sysconfig.get_path("purelib"), "ninscope-tree.pth").write_text("\n".join(paths))

# The core alone: no torch. `make demo` shows that measuring needs nothing more.
$(VENV)/core: $(VENV)/created pyproject.toml setup.py constraints.txt
	$(PIP) --editable . --constraint constraints.txt
	$(BIN)/python -c '$(TREE)'
	touch $@

$(VENV)/tools: $(VENV)/core
	$(PIP) --editable '.[test,train,memel,polysemanticity,docs]' --constraint constraints.txt
	touch $@

# torchvision is built for another torch than the CPU's, and beside it transformers cannot be imported: a folder of its own.
$(VENV)/timm: $(VENV)/tools
	$(PIP) --no-deps --target $@ timm==1.0.31 torchvision==0.28.0
	touch $@

$(VENV)/mutants: $(VENV)/tools
	$(PIP) --editable '.[mutants]' --constraint constraints.txt
	touch $@

demo: $(VENV)/core
	$(BIN)/ninscope demo

#   make lint    style, import order, complexity and types
lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

#   make check   the tests that take no process, cluster, browser or trained model of their own (under three minutes on two cores)
check: $(VENV)/tools
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not slurm"

# Compiled first, four files of tests at a time on two cores, since many wait for processes, each with one thread of linear algebra:
# two that wait for each other take twice the CPU time. Then the kernels once more as plain Python, so that an index error cannot
# hide in machine code.
test: $(VENV)/timm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest --numprocesses 2 -m "not slow" tests/kernels

#   make soak    kill runs at 200 random moments (ten minutes or more); NINSCOPE_TEST_SEED=1 takes others
soak: $(VENV)/tools
	NINSCOPE_TEST_KILLS=200 $(BIN)/python -m pytest tests/pipeline/test_kills.py -k random

#   make mutants   put 300 small faults into copies of the sources, one at a time; the tests must notice 90 % (some seven minutes)
mutants: $(VENV)/mutants
	PYTHONPATH=tests $(BIN)/python -m mutation --least 90

#   make docs    build the documentation into build/docs (open build/docs/index.html); a warning is an error
docs: $(VENV)/tools
	$(BIN)/python -m sphinx -q -W --keep-going -n -c docs . build/docs

#   make bench   speed and memory, each beside the limit or naive version measured in the same run
bench: $(VENV)/tools
	$(BIN)/python -m benchmarks

#   make gpu     on an NVIDIA GPU: its kernels give the CPU's integers, and how fast (under four minutes)
gpu: $(VENV)/tools
	$(BIN)/python -m benchmarks.gpu

#   make comparison   ninscope beside weightwatcher and others, each installed anew in runs/comparison: docs/compare-tools.md (half an hour)
comparison: $(VENV)/tools
	$(BIN)/python -m benchmarks.comparison
	$(BIN)/python docs/draw_figures.py

#   make examples   train three small models, measured while they train (three minutes on two cores); what is in runs/ is not made again
examples: $(VENV)/tools
	for way in with_trainer with_lightning plain_loop; do \
		test -e runs/example-$$way || $(BIN)/python examples/train_$$way.py --out runs/example-$$way || exit; done

#   make suite   train the suites in data/ again (about an hour on two cores)
suite: $(VENV)/tools
	$(BIN)/python data/train_stdlib_neox.py --out data/stdlib-neox-500k --force
	$(BIN)/python data/train_stdlib_neox.py --out data/stdlib-neox-67k --force --hidden 32 --keep 0 64 512 1000 --stop-after 1000 --threads 1
	$(BIN)/python data/train_stdlib_neox.py --out data/stdlib-neox-67k-seed1 --force --hidden 32 --keep 0 64 512 1000 --stop-after 1000 --threads 1 --seed 1
	$(BIN)/python data/train_stdlib_neox.py --out data/stdlib-neox-67k-seed2 --force --hidden 32 --keep 0 64 512 1000 --stop-after 1000 --threads 1 --seed 2
	$(BIN)/python data/train_stdlib_neox.py --out data/stdlib-neox-233k --force --hidden 64 --keep 0 64 512 1000 --stop-after 1000 --threads 1
	$(BIN)/python data/train_digits_ddpm.py --out data/digits-ddpm --force
	$(BIN)/python data/train_digits_swin.py --out data/digits-swin --force
	$(BIN)/python data/train_blobs_convgru.py --out data/blobs-convgru --force

#   make study   train the 108 models of docs/what-does-e-see.md, measure them and make the page's tables (about an hour on two cores);
#                what is whole already is not made again
study: $(VENV)/tools
	$(BIN)/python data/train_controls_study.py --out runs/study-models
	$(BIN)/ninscope run dags/study.toml
	$(BIN)/ninscope run dags/study-paths.toml
	$(BIN)/ninscope run dags/controls.toml
	$(BIN)/python data/collect_controls_study.py --models runs/study-models --run runs/study --paths runs/study-paths \
		--demo runs/controls --out docs/study/measures.parquet
	$(BIN)/python data/analyse_controls_study.py

#   make laboratory   train, prune and measure the networks of docs/polysemanticity.md and make that page's tables (half an hour on two cores)
laboratory: $(VENV)/tools
	$(BIN)/ninscope run polysemanticity
	$(BIN)/ninscope run docs/polysemanticity/neurons.toml
	$(BIN)/python docs/collect_polysemanticity.py runs/polysemanticity --neurons runs/polysemanticity-neurons

#   make figures   draw the figures of the README and of docs/ again
figures: demo laboratory examples
	$(BIN)/ninscope bias data/stdlib-neox-500k --figure docs/figures/bias-stdlib-neox-500k.png
	for dag in parts controls ablations diffusion memel neurons docs/figures/scaling.toml; do $(BIN)/ninscope run $$dag || exit; done
	$(BIN)/python -m benchmarks.shapes 160m runs/init-160m/step0
	$(BIN)/ninscope bias runs/init-160m --figure docs/figures/bias-init-160m.png
	$(BIN)/python docs/draw_figures.py runs
	$(BIN)/python docs/collect_neurons.py runs/neurons

clean:
	rm -rf $(VENV) build dist src/*.egg-info pipeline/*.egg-info .pytest_cache .ruff_cache .hypothesis
