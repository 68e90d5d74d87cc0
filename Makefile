PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEWSTEP := $(VENV)/.fewstep
DEV := $(VENV)/.dev

# Two OpenMP threads on a busy small machine can be far slower than one.
test slow lint notebook cases families fuzz scale memory-table soak clients-table comfyui-check: export OMP_NUM_THREADS = 1
test slow notebook cases families fuzz scale memory-table soak clients-table comfyui-check: export HF_HUB_OFFLINE = 1
# Nothing is printed after the closing line of pytest.
test slow notebook: export TRANSFORMERS_VERBOSITY = error

.PHONY: demo test slow lint docs notebook cases families fuzz scale teacher teacher-table survey relay-table control-table conditioning-table chain-table decoder-table arms-table from-video-table latency training-speed memory-table soak export-table clients-table comfyui-check

# What fits into the minutes on this machine; the same numbers again where it was begun before.
MINUTES ?= 10
demo: $(FEWSTEP)
	$(BIN)/fewstep demo --minutes $(MINUTES)

# A process per core; a file's tests stay together, as they share what is slow to make. In the tree's order files that
# take a second come last, so that no process waits long for the other.
test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Tests that take long: the notebook, and what `make test` has shorter ones of. Slow cases: `make cases`.
slow: $(DEV)
	$(BIN)/pytest --slow -m slow --ignore tests/cases --numprocesses 2

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The site of docs/, in build/site; a dead link fails it. `.venv/bin/mkdocs serve` shows it while pages are edited.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs docs/notebook.ipynb and keeps what its cells show.
notebook: $(DEV)
	$(BIN)/jupyter execute --inplace docs/notebook.ipynb

cases: $(DEV)
	$(BIN)/pytest tests/cases --cases docs/results/cases.json

scale: $(DEV)
	$(BIN)/pytest tests/distill/test_parallel.py tests/distill/test_paper_layout.py --scale docs/results/scale.json

families: $(DEV)
	$(BIN)/pytest tests/families --families docs/results/families.json

# Bad input of every kind: none may crash, hang or run.
fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz --num 10000 --seed 0 --out docs/results/fuzz.json

teacher: $(FEWSTEP)
	$(BIN)/fewstep teacher train recipes/shapes-teacher.yaml --embed

# What can be done with each pipeline in a folder of tiny random ones, which are no part of the project.
TINY ?= ../shared/tiny
survey: $(FEWSTEP)
	$(BIN)/fewstep teacher survey $(TINY)/*/ --out docs/results/teachers.json

teacher-table: $(FEWSTEP)
	$(BIN)/fewstep shapes teacher --fresh --out docs/results/teacher.json

# SEED=1 is another run, with a table of its own.
SEED ?= 0
OF_SEED := $(if $(filter-out 0,$(SEED)),-seed-$(SEED))
relay-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/videos --num 6144
	$(BIN)/fewstep run shapes-relay --set data.folder=runs/videos --set seed=$(SEED) --set out=runs/shapes-relay$(OF_SEED)
	$(BIN)/fewstep shapes students runs/shapes-relay$(OF_SEED) --steps 50 --guidance 7@0.3-0.93 --dtype auto \
		--no-to-teacher --diversity 64 --fresh --out docs/results/relay$(OF_SEED).json

# Regression alone from where the discriminator's phase of 1 step starts, by the same supervisor for about as long, in a copy
# of the relay's run: what of the gain at 1 step is the discriminator's.
control-table: $(FEWSTEP)
	test -d runs/shapes-relay-control || cp -r runs/shapes-relay runs/shapes-relay-control
	$(BIN)/fewstep run shapes-relay --set data.folder=runs/videos --set out=runs/shapes-relay-control \
		--set stages.1-step-mse.start=1-step-from-relaxed --set stages.1-step-mse.teacher=2-step-relaxed \
		--set stages.1-step-mse.steps=950 --again 1-step-mse
	$(BIN)/fewstep shapes students runs/shapes-relay-control --stages 1-step-conditional,1-step-mse --steps 50 \
		--guidance 7@0.3-0.93 --dtype auto --no-to-teacher --diversity 64 --fresh --out docs/results/relay-control.json

# Ways to let a discriminator judge, from one start and for about as long. ARMS=2-mse,2-clips-at-data trains these stages
# alone, with what they build on, and adds their rows to those that are there.
ARMS ?=
arms-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/videos --num 6144
	$(BIN)/fewstep run shapes-arms --set data.folder=runs/videos $(if $(ARMS),--stages $(ARMS))
	$(BIN)/fewstep shapes students runs/shapes-arms --steps 50,4,2,1 --guidance 7@0.3-0.93 --dtype auto --no-to-teacher \
		$(if $(ARMS),--stages $(ARMS),--fresh) --out docs/results/adversarial.json

# The same stages on the teacher's own clips, and on a folder of mp4 files.
from-video-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/real --num 1536
	$(BIN)/fewstep run shapes-4step
	$(BIN)/fewstep run shapes-from-video --set data.folder=runs/real
	$(BIN)/fewstep shapes students runs/shapes-4step runs/shapes-from-video --steps 50,4 \
		--fresh --guidance 7@0.3-0.93 --dtype auto --out docs/results/from-video.json

# Students that are given frames or boxes, next to their teachers: the relay of each, then 512 held-out clips.
conditioning-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/real --num 1536 --given runs/real-given
	$(BIN)/fewstep teacher videos runs/held-out --held-out --seed 0 --num 512 --given runs/held-out-given
	$(BIN)/fewstep run shapes-first-frame --set data.folder=runs/real
	$(BIN)/fewstep run shapes-first-last --set data.folder=runs/real
	$(BIN)/fewstep run shapes-box-control --set data.folder=runs/real --set data.captions=runs/real-given/captions.jsonl
	$(call evaluate-given,shapes-image,shapes-first-frame,first,frame-psnr)
	$(call evaluate-given,shapes-image,shapes-first-last,first-last,frame-psnr)
	$(call evaluate-given,shapes-control,shapes-box-control,control,box-iou)
	$(BIN)/fewstep shapes conditioning image-to-video=runs/shapes-first-frame/evaluation \
		first-last-frame=runs/shapes-first-last/evaluation box-control=runs/shapes-box-control/evaluation \
		--out docs/results/conditioning.json

# of a teacher, its students' run, what is given, and the metric of that
define evaluate-given
$(BIN)/fewstep evaluate teacher-32=$(1)@32:3 4-step-mse=runs/$(2)/stages/4-step 4-step=runs/$(2)/stages/4-step-relaxed \
	2-step-mse=runs/$(2)/stages/2-step 2-step=runs/$(2)/stages/2-step-relaxed teacher-4=$(1)@4:3 \
	--prompts runs/held-out-given/prompts-$(3).jsonl --num 512 --metrics shapes-fd,prompt-accuracy,motion,$(4) \
	--out runs/$(2)/evaluation
endef

# Weights do not matter here, so students of the demo's recipe will do. A guided step is one pass of twice the batch: only
# where a batch fills the machine does it cost what two passes do, so the ideal is held against at batch 4, one thread.
TIMED := shapes@50:3 8-step=runs/shapes-demo@8 4-step=runs/shapes-demo@4 --dtype float32
latency: $(FEWSTEP)
	$(BIN)/fewstep run shapes-demo
	OMP_NUM_THREADS=1 $(BIN)/fewstep benchmark $(TIMED) --batch 4 --repetitions 5 --warmup 1 --out docs/results/latency.json
	$(BIN)/fewstep benchmark $(TIMED) --out docs/results/latency-batch1.json

training-speed: $(FEWSTEP)
	OMP_NUM_THREADS=1 $(BIN)/fewstep benchmark --training shapes-4step --stages 4-step-conditional,4-step-relaxed \
		--dtype float32 --device cpu --repetitions 8 --warmup 1 --out docs/results/training.json

# Memory of training steps as a dry run counts it: of real sizes, and next to real steps of the embedded teacher.
memory-table: $(DEV)
	$(BIN)/python -m tests.memory --out docs/results/memory.json
	$(BIN)/python -m tests.memory --recompute --out docs/results/recompute.json

# Kills, stops and full disks at random moments of a tiny run: its end must have the same bytes.
soak: $(DEV)
	$(BIN)/python -m tests.soak --out docs/results/soak.json

# Exports in the programs that they are for. LEAST: a Python with the least diffusers that cards name. COMFYUI: a checkout,
# whose requirements are installed here, or in the Python that COMFYUI_PYTHON names, beside fewstep.
COMFYUI_PYTHON ?= $(BIN)/python
clients-table: $(DEV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quant,gguf,onnx]'
	$(BIN)/python -m tests.clients --libraries $(if $(LEAST),--least $(LEAST))

comfyui-check: $(DEV)
	$(if $(COMFYUI),,$(error name a checkout of ComfyUI: make comfyui-check COMFYUI=DIR))
	$(COMFYUI_PYTHON) -m tests.clients --comfyui $(COMFYUI)

# A chain from prompts to pictures to clips, end to end: its teachers, then its students at four and at two steps each.
CHAINED := teacher=shapes-frame+shapes-image@16+16:3 chain-4=runs/shapes-chain@4+4 chain-2=runs/shapes-chain@2+2
chain-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/real --num 1536
	$(BIN)/fewstep run shapes-first-frame --set data.folder=runs/real
	$(BIN)/fewstep run shapes-chain
	$(BIN)/fewstep evaluate $(CHAINED) --num 512 --metrics shapes-fd,prompt-accuracy,motion --out runs/shapes-chain/evaluation
	OMP_NUM_THREADS=1 $(BIN)/fewstep benchmark $(CHAINED) --batch 4 --repetitions 5 --out runs/shapes-chain/benchmark.json
	$(BIN)/fewstep shapes chain runs/shapes-chain --out docs/results/chain.json

# Clips whose decoding is distilled, too: a student of the demo's recipe, decoded by the autoencoder and by a small decoder.
DECODED := 4-step=runs/shapes-demo@4 4-step-small=runs/shapes-demo@4 --decoder 4-step-small=runs/shapes-decoder --dtype float32
DECODED_TIMES := shapes@50:3 $(DECODED)
decoder-table: $(FEWSTEP)
	$(BIN)/fewstep teacher videos runs/real --num 1536
	$(BIN)/fewstep run shapes-decoder --set data.folder=runs/real
	$(BIN)/fewstep run shapes-demo
	$(BIN)/fewstep evaluate $(DECODED) --num 1024 --metrics shapes-fd,prompt-accuracy,motion --out runs/shapes-decoder/evaluation
	OMP_NUM_THREADS=1 $(BIN)/fewstep benchmark $(DECODED_TIMES) --batch 4 --repetitions 5 --out runs/shapes-decoder/benchmark-batch4.json
	OMP_NUM_THREADS=1 $(BIN)/fewstep benchmark $(DECODED_TIMES) --repetitions 10 --out runs/shapes-decoder/benchmark.json
	$(BIN)/fewstep shapes decoder runs/shapes-decoder --out docs/results/decoder.json

# Formats are measured here, not training: a student of the demo's recipe and a LoRA of minutes will do.
SHORT_LORA := --set out=runs/shapes-lora-short --set 'logging.prompts=[]' \
	--set 'data={kind: dataset, folder: runs/shapes-demo/data}' \
	--set stages.8-step.steps=150 --set stages.4-step.steps=100 \
	--set stages.4-step-conditional.steps=10 --set stages.4-step-conditional.objective.warmup=0 \
	--set stages.4-step-relaxed.steps=10 --set stages.4-step-relaxed.objective.warmup=0
export-table: $(FEWSTEP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quant,gguf,onnx]'
	$(BIN)/fewstep run shapes-demo
	$(BIN)/fewstep run shapes-lora-4step $(SHORT_LORA)
	$(BIN)/fewstep shapes exports runs/shapes-demo runs/shapes-lora-short --num 128 --fresh --out docs/results/export.json

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# pip makes bytecode on one core: here all of them do. Packages hold a few files that no Python compiles.
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true

$(FEWSTEP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	$(COMPILE)
	touch $@

$(DEV): $(FEWSTEP)
	$(INSTALL) '.[dev]'
	$(COMPILE)
	touch $@
