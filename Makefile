# Shortcuts for developers; ./run and ./test need none of them.
# ARGS go to the program: make soak ARGS="--seed 7"
LAB = tests/engine.sh up && tests/engine.sh exec .venv/bin/python -m ds01_spawner.admin.base_environment && tests/engine.sh exec .venv/bin/python
export DS01_TEST_NAME ?= ds01-soak

.PHONY: lint soak bench docs

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

soak:
	tests/engine.sh up && tests/engine.sh exec .venv/bin/python -m tests.soak $(ARGS); code=$$?; tests/engine.sh down; exit $$code

bench:
	$(LAB) -m tests.bench.run $(ARGS); code=$$?; tests/engine.sh down; exit $$code

docs:
	.venv/bin/python docs/check_links.py $(ARGS)
