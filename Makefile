# make .venv installs; make demo shows everything on drawn images; make check is what CI runs.
PYTHON ?= python3
BIN := .venv/bin
DEMO_DATA ?= demo/drawn
DEMO_OUT ?= demo/checkpoints

.PHONY: .venv demo test test-slow lint type check
.DELETE_ON_ERROR:

.venv: .venv/.installed

.venv/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
	  "Python %d.%d is not 3.11 or 3.12; name one: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

$(DEMO_DATA)/Data_Entry_2017.csv: | .venv/.installed
	$(BIN)/python -m chestxray.phantom $(DEMO_DATA) --n 1600

demo: .venv/.installed $(DEMO_DATA)/Data_Entry_2017.csv
	@echo "The images of this demo are drawn: its AUC shows that the program works, not how well it reads X-rays."
	$(BIN)/python main.py --data_path $(DEMO_DATA) --output-dir $(DEMO_OUT) --overwrite \
	  --weights none --size 64 --bs 16 --lr 5e-4 --epochs 4
	$(BIN)/python main.py --output-dir $(DEMO_OUT) --overwrite \
	  --resume --ckpt stage1_0005_04.pth --stage 2 --lr 1e-4 --epochs 2
	$(BIN)/python main.py --output-dir $(DEMO_OUT) --overwrite \
	  --test --ckpt stage2_0001_06.pth --ci 200
	$(BIN)/python -m chestxray.conformal $(DEMO_OUT)/stage2_0001_06_test_scores.csv --risk fnr \
	  --alpha 0.1 0.2

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: .venv/.installed
	$(BIN)/mypy

test: .venv/.installed
	$(BIN)/python -m pytest

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

check: lint type test
