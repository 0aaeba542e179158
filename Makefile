# make .venv installs; make demo shows everything on drawn images; make check is what CI runs.
#
# A torch for the CPU alone, smaller by gigabytes: in either of these ways pip takes what is there.
#   PIP_EXTRA_INDEX_URL=INDEX make .venv       the index that pytorch.org names for "CPU"
#   python3 -m venv .venv, then .venv/bin/pip install the torch of your choice, then make .venv
PYTHON ?= python3
BIN := .venv/bin
DEMO_DATA ?= demo/drawn
DEMO_OUT ?= demo/checkpoints
DEMO_CACHE ?= demo/cache
DEMO_IMAGES ?= 3000
DEMO_FLAGS ?=

.PHONY: .venv demo clean-demo test test-slow test-slow-processes test-slow-interruptions test-slow-benchmarks test-slow-others \
  lint type check
.DELETE_ON_ERROR:

.venv: .venv/.installed

.venv/.installed: requirements.txt requirements-dicom.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
	  "Python %d.%d is not 3.11 or 3.12; name one: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

# The demo is a chain of files. Stopped anywhere, make demo goes on: what is drawn, trained, scored
# stays, and a training under way is resumed. Once complete it only says where everything lies.
DRAWN := $(DEMO_DATA)/Data_Entry_2017.csv
STAGE1 := $(DEMO_OUT)/stage1_0005_03.pth
STAGE2 := $(DEMO_OUT)/stage2_0001_04.pth
SCORES := $(STAGE2:.pth=_test_scores.csv)
SETS := $(SCORES:.csv=_fnr_crc)
NONEMPTY := $(SCORES:.csv=_fdr_ltt_nonempty)
ELSEWHERE := $(DEMO_OUT)/elsewhere
DICOM = $$($(BIN)/python -c 'import importlib.util as u; print(int(u.find_spec("pydicom") is not None))')
DEMO_MAIN = $(BIN)/python main.py --output-dir $(DEMO_OUT) --cache-dir $(DEMO_CACHE) $(DEMO_FLAGS)
# Written whole: a stop just after one must not delete it.
.PRECIOUS: $(DRAWN) $(STAGE1) $(STAGE2) $(SCORES)

demo: $(ELSEWHERE)/.complete
	@echo
	@echo "The demo is complete; make clean-demo deletes it."
	@echo "  drawn images   $(DEMO_DATA)/"
	@echo "  checkpoints    $(STAGE1), $(STAGE2)"
	@echo "  training       $(DEMO_OUT)/log.jsonl, $(DEMO_OUT)/curves.png"
	@echo "  scores         $(SCORES)"
	@echo "  metrics        $(SCORES:_scores.csv=_metrics.json)"
	@echo "  FNR control    $(SETS)/report.md"
	@echo "  FDR control    $(NONEMPTY)/report.md, levels.png"
	@echo "  own images     $(DEMO_DATA)_elsewhere/images, $(ELSEWHERE)/sets.csv"
	@echo "The images are drawn: the AUC shows that the program works, not how well it reads X-rays."

$(DRAWN): | .venv/.installed
	$(BIN)/python -m chestxray.phantom $(DEMO_DATA) --n $(DEMO_IMAGES) --size 64

$(STAGE1): | $(DRAWN)
	if test -e $(DEMO_OUT)/last.pth; then $(DEMO_MAIN) --resume; else $(DEMO_MAIN) --overwrite \
	  --data_path $(DEMO_DATA) --weights none --size 64 --max-per-class 100 --bs 16 --lr 5e-4 --epochs 3; fi
	@$(call must_exist,$@)

# A last.pth that is newer than the end of stage 1 is of a stage 2 under way.
$(STAGE2): | $(STAGE1)
	if test $(DEMO_OUT)/last.pth -nt $(STAGE1); then $(DEMO_MAIN) --resume; fi
	test -e $@ || $(DEMO_MAIN) --overwrite --resume --ckpt $(notdir $(STAGE1)) \
	  --stage 2 --lr 1e-4 --epochs 1
	@$(call must_exist,$@)

$(SCORES): | $(STAGE2)
	$(DEMO_MAIN) --overwrite --test --ckpt $(notdir $(STAGE2)) --ci 200

$(SETS)/.complete: | $(SCORES)
	$(BIN)/python -m chestxray.conformal $(SCORES) --overwrite --risk fnr --alpha 0.1 0.2
	@touch $@

# Of the sets that say something, few findings false: at levels that these few patients can certify.
$(NONEMPTY)/.complete: | $(SETS)/.complete
	$(BIN)/python -m chestxray.conformal $(SCORES) --overwrite --risk fdr --empty drop --alpha 0.7:0.9:0.05
	@touch $@

# Three images of other drawn patients, without labels; one is DICOM where the extra is installed.
$(ELSEWHERE)/.complete: | $(NONEMPTY)/.complete
	$(BIN)/python -m chestxray.phantom $(DEMO_DATA)_elsewhere --n 3 --size 64 --seed 1 --images-only --dicom $(DICOM)
	$(BIN)/python -m chestxray.predict $(DEMO_DATA)_elsewhere --ckpt $(STAGE2) \
	  --thresholds $(SETS)/thresholds.json --out $(ELSEWHERE) --cache-dir $(DEMO_CACHE) --overwrite
	@touch $@

must_exist = test -e $(1) || { echo "$(DEMO_OUT) holds another run: make clean-demo"; exit 1; }

clean-demo:
	rm -rf $(DEMO_DATA) $(DEMO_DATA)_elsewhere $(DEMO_OUT) $(DEMO_CACHE)

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: .venv/.installed
	$(BIN)/mypy

test: .venv/.installed
	$(BIN)/python -m pytest

# In parts of a few minutes, of which .ci/run runs two side by side, the longest first.
test-slow: test-slow-processes test-slow-interruptions test-slow-benchmarks test-slow-others

SLOW_PROCESSES := tests/runtime
SLOW_INTERRUPTIONS := tests/test_interruptions.py
SLOW_BENCHMARKS := tests/test_benchmarks.py
SLOW_PARTS := $(SLOW_PROCESSES) $(SLOW_INTERRUPTIONS) $(SLOW_BENCHMARKS)

test-slow-processes: .venv/.installed
	$(BIN)/python -m pytest -m slow $(SLOW_PROCESSES)

test-slow-interruptions: .venv/.installed
	$(BIN)/python -m pytest -m slow $(SLOW_INTERRUPTIONS)

test-slow-benchmarks: .venv/.installed
	$(BIN)/python -m pytest -m slow $(SLOW_BENCHMARKS)

test-slow-others: .venv/.installed
	$(BIN)/python -m pytest -m slow $(SLOW_PARTS:%=--ignore=%)

check: lint type test
