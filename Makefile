# Building, running and testing need Go alone. The targets that need more say so.

GO ?= go
HISTORY := $(shell od -An -N7 -tu8 /dev/urandom | tr -d ' ')
C_FILES := $(wildcard internal/datapath/bpf/*.[ch] internal/lab/bpf/*.[ch] bench/race/bpf/*.[ch])

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build ./sidestep, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o sidestep ./cmd/sidestep

.PHONY: demo
demo: ## show it all in namespaces of its own (root)
	$(GO) run ./cmd/sidestep demo

.PHONY: test
test: ## all tests, about five minutes at most (root)
	$(GO) test ./...

.PHONY: check-long
check-long: ## the tests that loop, with longer loops; HISTORY is the seed of the random history (root)
	$(GO) test -count=1 -timeout 45m ./internal/leak -args -long -seed=$(HISTORY)
	$(GO) test -count=1 -timeout 30m ./internal/datapath -args -long

.PHONY: check-faults
check-faults: ## have every kernel call of a start, change, stop and upgrade fail, or the daemon killed there: hours (root)
	$(GO) test -count=1 -timeout 12h -run 'Anywhere|NextDaemon' ./internal/leak -args -every

.PHONY: race
race: ## the tests under the race detector, without those that count packets (root, cgo)
	$(GO) test -race -p 1 -timeout 30m ./policy ./api . $$($(GO) list ./internal/... | grep -v internal/leak)

.PHONY: bench
bench: ## what it costs, engine off and on in one run: a quarter of an hour, or BENCH=-short (root)
	$(GO) run ./bench/cost $(BENCH)

.PHONY: bench-race
bench-race: ## first packets on the wrong side, next to what others do: half an hour, writes bench/race (root)
	$(GO) run ./bench/race -out bench/race

.PHONY: fuzz
fuzz: ## fuzz what reads foreign input, a minute each
	for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
		for t in $$(grep -hoE '^func Fuzz[A-Za-z0-9]+' $$f | cut -d' ' -f2); do \
			$(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime 1m ./$$(dirname $$f) || exit 1; \
		done; \
	done

.PHONY: packages
packages: ## .deb and .rpm for ARCHS="amd64 arm64", in dist
	GO='$(GO)' packaging/build

.PHONY: check-packages
check-packages: ## install, upgrade, run, remove in a Debian of its own (root, debootstrap, rpm)
	GO='$(GO)' packaging/check

# VM_FLAGS='-write docs/kernels.md' puts the results there.
VM = $(GO) run ./internal/vm $(VM_FLAGS)

.PHONY: check-vm
check-vm: ## tests, oracle and demo on Debian's kernels 5.10 (refused), 6.1, 6.12 and 7.x (QEMU, apt)
	$(VM) everyday

.PHONY: check-vm-short
check-vm-short: ## of that the oracle, fork storms, open flows, the verifier, want of memory and the demo: five minutes
	$(VM) -run 'TestKernelAgrees|InForkStorms|OpenFlows|NobodyHasSeen|VerifierIs|WantOfMemory' everyday

.PHONY: check-vm-all
check-vm-all: ## likewise on every kernel in internal/vm/kernels.go that this machine's apt has
	$(VM) all

.PHONY: check-arm64
check-arm64: ## likewise on arm64, emulated (QEMU, apt)
	$(VM) arm64

.PHONY: check-vm-service
check-vm-service: ## the service's life with systemd as init, beside networkd, resolved and AppArmor (root, debootstrap, QEMU)
	GO='$(GO)' KERNEL=$(or $(KERNEL),debian-13) packaging/check

.PHONY: lint
lint: ## gofmt, vet, staticcheck, clang-format, mandoc, systemd-analyze and shellcheck if there
	test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags deaf ./...
	$(GO) vet -tags elder ./...
	$(GO) tool staticcheck ./...
	clang-format --dry-run --Werror $(C_FILES)
	mandoc -T lint -W warning man/sidestep.1
	packaging/lint

.PHONY: generate
generate: ## compile the BPF objects and the test programs anew (clang 14, lld, libbpf-dev)
	$(GO) generate ./...

.PHONY: cross
cross: ## what must build for other systems
	GOARCH=arm64 $(GO) build ./...
	GOARCH=arm64 $(GO) vet ./...
	for os in windows darwin; do GOOS=$$os $(GO) build ./policy ./api || exit 1; done
