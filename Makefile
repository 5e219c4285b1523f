# `make` prints its targets.
GO ?= go
PKGS := ./...
FUZZTIME ?= 1h

.PHONY: help build test lint bench fuzz sim simhuge soak peers

help: ## print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

build: ## build bin/holdfast
	$(GO) build -o bin/holdfast ./cmd/holdfast

peers: # the genuine peers that interop tests use
	@scripts/peers.sh

lint: ## gofmt, vet, staticcheck (the import directions are a test)
	@test -z "$$(gofmt -l cmd internal test)" || { echo "gofmt:"; gofmt -l cmd internal test; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) tool staticcheck $(PKGS)
	$(GO) test ./internal/lint/

test: peers lint ## everything that CI runs: lint, unit, crash, simulation, interop
	@scripts/test.sh

bench: peers build ## speed and size beside genuine Redis, as a table; geometry and cost of arrays
	$(GO) run ./test/bench
	$(GO) test ./internal/raid/ -count=1 -v -run 'Geometry'
	$(GO) test ./internal/raid/... ./internal/journal/ -run '^$$' -bench 'Parity|OnArray'

fuzz: ## every fuzz target for FUZZTIME (default 1h each)
	@scripts/fuzz.sh $(FUZZTIME)

sim: ## many more seeds of the simulator; clusters of up to 300 nodes
	$(GO) test ./internal/sim/ -count=1 -timeout 0 -v -sim.seeds=100000 -sim.cluster.seeds=100000 -sim.move.seeds=100000 -sim.cluster.large

simhuge: ## clusters of 10 to 1,000 simulated nodes: a tenth dies, what the bus costs (minutes, 3 GB)
	$(GO) test ./internal/sim/ -count=1 -timeout 0 -v -run Traffic -sim.cluster.large -sim.cluster.huge

soak: peers ## long forms of the crash tests
	HOLDFAST_SOAK=1 $(GO) test ./internal/raid/ ./test/crash/ ./test/peers/ ./test/server/ ./test/cluster/ -count=1 -timeout 0 -v
