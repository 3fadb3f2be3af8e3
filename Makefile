# `make check` before a commit, `make test` before a merge. Each target makes .venv if there is none.
SHELL := /bin/bash
.PHONY: check test slow docs bench

check: ## formatting, lint, types, spelling
	source tools/environment.sh && install_project "[test,dev]" && \
	ruff format --check . && ruff check . && mypy && codespell

test: ## all checks but the long ones
	tools/test

slow: ## the long, statistical tests
	tools/test -m slow

docs: ## the documentation site, in site/
	source tools/environment.sh && install_project "[docs]" && mkdocs build --strict

bench: ## what README's table of figures says; an hour or so
	source tools/environment.sh && install_project "[test]" && \
	for name in fit data evaluate store; do python -m tools.bench.$$name || exit 1; done
