# The commands of README.md and CONTRIBUTING.md. `make` lists them.
BIN := .venv/bin
export NO_MKDOCS_2_WARNING := 1
.PHONY: help install check test slow docs docs-serve gallery demo clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: ## create .venv with the package in editable mode and all development tools
	python3 -m venv .venv && $(BIN)/pip install --no-compile -e '.[dev]'

check: ## run ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: ## run the default tests, with these checks and the site among them
	$(BIN)/python -m pytest -n 3 --dist loadfile

slow: ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

docs: ## build the documentation's site in build/site; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

docs-serve: ## show the site on this machine and rebuild it after each change
	$(BIN)/mkdocs serve

gallery: ## draw the gallery's figures from published scores
	$(BIN)/diamond-bench paper figure2 probability_of_improvement sample_efficiency --out build/gallery
	cd build/gallery && cp figure2.png probability_of_improvement.png sample_efficiency-published-test.png ../../docs/figures/

demo: ## run the first study at scale smoke
	$(BIN)/diamond-bench weights fetch lpips && $(BIN)/diamond-bench sweep sampling_steps scale=smoke

clean: ## remove what was built; results in outputs/ stay
	rm -rf build dist
