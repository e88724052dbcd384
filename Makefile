# `make help` lists the targets. `make run` and `make test` are all that a newcomer needs.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 1m
# How often make fuzz tries to shorten an input. By default, a target whose coverage varies between two runs, such as
# one with a database, spends a minute on shortening each input that covers something new, which is almost every one.
MINIMIZETIME ?= 5x
# Kills of the crash test, and seeds and rounds elsewhere, in test-long.
KILLS ?= 50
# Where make build puts the program.
BINARY ?= bin/ebb

# The static binary needs no C library at run time: pure Go name resolution, everything else linked in. No flag here may
# change how C is compiled: SQLite would be built once more, for a minute.
# QUIET: SQLite could load extensions by dlopen, which linkers warn of; Ebb never does.
QUIET  = $(shell ld --help 2>/dev/null | grep -q -- --no-warnings && echo -Wl,--no-warnings)
STATIC = -tags netgo,osusergo -ldflags '-X main.version=$(VERSION) -s -w -linkmode external -extldflags "-static $(QUIET)"'

# How long the search for known vulnerabilities may take: a network that swallows packets must not stop make check.
VULNS_TIMEOUT ?= 3m
# A copy of the vulnerability database, as a file:// URL; empty for the public one.
VULNDB ?=

# The packages that are compared with mautrix's experiments. No SQLite among them, or its C code is built twice.
JSONV2_PACKAGES = ./rooms/pdu/... ./rooms/eventauth/... ./rooms/stateres/...

# Shows the progress of go test.
TESTRUN = $(GO) run ./internal/testrun

.DEFAULT_GOAL := build
# For make mutate: the packages, the tool with every operator, and the flags of the tests. A test of CPU time that fails on a
# busy machine is skipped, and vet is off because its complaints would count as failures.
PURE_PACKAGES ?= canonjson rooms/pdu rooms/eventauth rooms/stateres rooms/visibility rooms/expiry pushrules
GREMLINS = github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0
OPERATORS = --arithmetic-base --conditionals-boundary --conditionals-negation --increment-decrement --invert-assignments --invert-bitwise \
	--invert-bwassign --invert-logical --invert-loopctrl --invert-negatives --remove-self-assignments
MUTANT_TESTS = -short -vet=off -skip=^TestHostileText

.PHONY: help run build test test-rust test-long check vulns fmt bench attack fuzz mutate deps clean

## help: print this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

## run: build and run a server on this machine (127.0.0.1:8008, data in ./data); prints a registration token
run: build
	@test -f data/ebb.yaml || bin/ebb init --server-name localhost --data-dir ./data
	@test -f data/registration-token || (umask 077; \
		bin/ebb token create --reusable --config data/ebb.yaml >data/registration-token || { rm -f data/registration-token; exit 1; })
	@echo "Ebb: enter http://127.0.0.1:8008 as the homeserver in a client. Registration token: $$(cat data/registration-token)"
	@exec bin/ebb serve --config data/ebb.yaml

## build: build the static binary bin/ebb; the default
build:
	@command -v $(GO) >/dev/null || { echo "Building Ebb needs Go, in the version of go.mod or newer: https://go.dev/dl"; exit 1; }
	@command -v $${CC:-gcc} >/dev/null || { echo "Building Ebb needs a C compiler: apt-get install gcc libc6-dev"; exit 1; }
	CGO_ENABLED=1 $(GO) build $(STATIC) -o $(BINARY) ./cmd/ebb

## test: run all tests and show the progress; at most 15 minutes on two cores
test:
	$(GO) run ./internal/pgtest -- $(TESTRUN) -timeout 15m ./...
	GOEXPERIMENT=jsonv2 $(TESTRUN) -timeout 10m $(JSONV2_PACKAGES)
	@if [ -x test/sdk/run ]; then test/sdk/run; fi
	@if [ -x test/browser/run ]; then test/browser/run; fi

## test-rust: run the crates of Element X against the real binary; needs cargo, and minutes for their build
test-rust:
	EBB_TEST_RUST=1 $(GO) test -v -count 1 -timeout 90m ./test/rustsdk

## test-long: run all tests with their full counts, for hours; docs/test-report.md has the last results
test-long: build
	EBB_TEST_LONG=1 EBB_TEST_RUST=1 EBB_TEST_KILLS=$(KILLS) $(GO) run ./internal/pgtest -- $(TESTRUN) -count 1 -timeout 90m ./...
	GOEXPERIMENT=jsonv2 EBB_TEST_LONG=1 $(TESTRUN) -count 1 -timeout 60m $(JSONV2_PACKAGES)
	@if [ -x test/sdk/run ]; then test/sdk/run; fi
	@if [ -x test/browser/run ]; then test/browser/run; fi
	$(MAKE) fuzz

## check: check formatting, vet, linters, import rules, the index of operations and known vulnerabilities
check:
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); test -z "$$unformatted" || { echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run
	$(GO) test ./internal/archtest ./internal/specindex
	@$(MAKE) --no-print-directory vulns

## vulns: check for known vulnerabilities in the code that Ebb calls; skipped if the database cannot be reached
vulns:
	@$(GO) build -modfile=tools/go.mod -o bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	@code=0; found=$$(timeout $(VULNS_TIMEOUT) bin/govulncheck $(if $(VULNDB),-db $(VULNDB)) ./... 2>&1) || code=$$?; \
	case "$$code $$found" in \
	124*|*"fetching vulnerabilities"*) \
		echo "SKIP govulncheck: the vulnerability database cannot be reached. Run 'make vulns' with network access, or with VULNDB=file:///path/to/a/copy." ;; \
	*) echo "$$found"; exit $$code ;; \
	esac

## fmt: format every file with gofmt
fmt:
	git ls-files '*.go' | xargs gofmt -w

## bench: measure the figures of docs/performance.md, with the limit of this machine beside them
bench: build
	$(GO) run ./internal/bench

## attack: attack a server with default limits, as a stranger, another server and a user
attack: build
	$(GO) run ./internal/bench -only attack -duration 10s

## fuzz: run every fuzz target for FUZZTIME
fuzz:
	@set -e; for file in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "== $$target in $$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime $(MINIMIZETIME) ./$$(dirname $$file); \
		done; \
	done

## mutate: list mutants of the pure packages that no test detects, for hours (docs/mutation.md)
mutate:
	@set -e; for package in $(PURE_PACKAGES); do \
		echo "== $$package"; \
		GOFLAGS="$(MUTANT_TESTS)" nice -n 19 $(GO) run $(GREMLINS) unleash --workers 1 --timeout-coefficient 10 $(OPERATORS) -E reference -S lt ./$$package; \
	done

## deps: download Go modules and the npm packages of test/sdk and test/browser, which the tests need
deps:
	$(GO) mod download
	@for dir in test/sdk test/browser; do \
		if [ ! -f $$dir/package.json ]; then :; \
		elif ! command -v npm >/dev/null; then echo "SKIP $$dir: apt-get install npm"; \
		elif [ ! -d $$dir/node_modules ]; then npm --prefix $$dir ci --no-audit --no-fund || exit 1; fi; done

## clean: remove the folder bin
clean:
	rm -rf bin
