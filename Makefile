# The entry points people use; Meson does the work in build/. Each target installs what it needs when it is missing.
BUILD ?= build
PREFIX ?= /usr/local
NINJA = ninja -C $(BUILD)

.PHONY: all demo test test-quick test-vm bench install clean format

all: $(BUILD)/build.ninja
	@$(NINJA)

$(BUILD)/build.ninja:
	@tools/install-deps build
	@meson setup $(BUILD) --prefix=$(PREFIX) >/dev/null

demo: all
	@tests/demo/run $(BUILD)

test: all
	@tools/install-deps test
	@tests/run $(BUILD)

# Unit and system tests only.
test-quick: all
	@tools/install-deps test
	@tests/run $(BUILD) unit system

test-vm: all
	@tools/install-deps vm
	@tests/vm/run $(BUILD)

bench: all
	@tools/install-deps bench
	@bench/run $(BUILD)

install: all
	@meson install -C $(BUILD)

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf $(BUILD) build-*
