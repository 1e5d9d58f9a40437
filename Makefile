# Tideline: `make up` runs a whole world, `make test` tests it. Nothing else to know.
.DEFAULT_GOAL := help
.PHONY: help setup build up test loadtest lint page-check clean
ARGS ?=

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the Debian packages that are missing
	@deploy/setup

build: setup ## Build the release program
	swift build -c release --product tideline

up: build ## Run a whole world on this machine; make up ARGS='--rate 5000' passes arguments on
	@.build/release/tideline up $(ARGS)

test: setup ## Build and run all tests
	swift build --build-tests
	swift test
	@echo "== allocations, in a release build"
	swift test -c release --scratch-path .build-release -Xswiftc -enable-testing --filter AllocationTests
	@if [ -z "$$TIDELINE_TEST_KAFKA" ]; then echo "skipped: Kafka (make test TIDELINE_TEST_KAFKA=host:port runs its suite against that broker)"; fi

loadtest: setup ## Measure it, with the method; make loadtest ARGS='pipeline latency' measures parts
	swift build -c release
	@loadtest/run $(ARGS)

lint: ## Check format and scripts
	swift format lint --strict -r Sources Tests loadtest
	bash -n deploy/setup .ci/run Tests/page-check Tests/recompute
	python3 -m compileall -q models loadtest Tests

page-check: ## Check the page in Chromium, of a world of its own or of URL=http://…, as make up prints it
	@Tests/page-check $(URL)

clean: ## Remove what was built
	rm -rf .build
