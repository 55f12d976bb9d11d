#!/usr/bin/env bash
# Sets up a Debian machine that has Rust, then checks and tests everything, as CI does.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
source deploy/packages.sh

summary=()

summarize() {
    printf '\n%s\n' "seconds  step"
    printf '%s\n' "${summary[@]}"
}
trap summarize EXIT

# Runs one step; the first that fails ends the run. Inside a step `set -e` has no effect.
step() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n=== %s\n' "$name"
    "$@" || status=$?
    summary+=("$(printf '%7d  %s' $((SECONDS - start)) "$name")")
    if ((status)); then
        summary+=("         FAILED: $name")
        exit 1
    fi
}

packages() {
    install_packages gcc libc6-dev shellcheck python3-pip curl nginx libnginx-mod-rtmp ffmpeg rtmpdump redis-server openssl \
        chromium iproute2 dnsmasq-base srt-tools \
        gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
}

toolchain() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version || rustup component add "${component/#fmt/rustfmt}" || return
    done
}

# The tool is not in Debian, and building it takes minutes: it is built while tests wait for processes
# and for time to pass. Without it the run goes on, because that can fail for reasons that are not ours.
deny_log=target/cargo-deny.log
install_deny() {
    mkdir -p target
    cargo deny --version >/dev/null 2>&1 && return
    CARGO_TARGET_DIR=target/cargo-deny timeout 1200 nice -n 19 \
        cargo install --debug --locked --quiet cargo-deny >"$deny_log" 2>&1 &
    deny_pid=$!
}

deny() {
    if [[ -n ${deny_pid:-} ]] && ! wait "$deny_pid"; then
        tail -n 5 "$deny_log"
        skip "dependencies are not checked: cargo-deny cannot be installed"
        return 0
    fi
    cargo deny --all-features check --hide-inclusion-graph licenses bans sources || return
    if GIT_TERMINAL_PROMPT=0 timeout 120 cargo deny fetch db; then
        cargo deny --all-features check --hide-inclusion-graph advisories
    else
        skip "advisories are not checked: their database cannot be fetched"
    fi
}

skip() {
    echo "SKIPPED: $1"
    summary+=("         skipped: $1")
}

# Debian's ffmpeg cannot put HEVC into RTMP; the one in this Python package can.
hevc() {
    local wheels=target/ffmpeg
    if ! compgen -G "$wheels/imageio_ffmpeg/binaries/ffmpeg-*" >/dev/null; then
        mkdir -p "$wheels"
        if ! timeout 300 python3 -m pip download --quiet --no-deps --dest "$wheels" imageio-ffmpeg==0.8.1; then
            skip "HEVC is not tested end to end: no newer ffmpeg can be had"
            return 0
        fi
        python3 -m zipfile -e "$wheels"/imageio_ffmpeg-*.whl "$wheels" || return
        chmod +x "$wheels"/imageio_ffmpeg/binaries/ffmpeg-*
    fi
    local ffmpeg
    ffmpeg=$(realpath "$wheels"/imageio_ffmpeg/binaries/ffmpeg-*)
    FFMPEG=$ffmpeg cargo test --locked --test e2e hevc
}

# A browser plays HLS with hls.js, which is no part of Debian. The test skips itself without it.
hls_js() {
    local version=1.7.4 sum=e4ab3d5d13f7cca9ef241d098f39686e19fd451831ba07dc9943482fd5ff75c7
    local dir=$PWD/target/hls.js-$version
    if [[ ! -e $dir/hls.min.js ]]; then
        command -v npm >/dev/null || install_packages npm || return
        mkdir -p "$dir"
        if ! (cd "$dir" && timeout 300 npm pack --silent "hls.js@$version" >/dev/null); then
            skip "HLS is not tested in a browser: hls.js cannot be had"
            return 0
        fi
        sha256sum --check --quiet <<<"$sum  $dir/hls.js-$version.tgz" || return
        tar --extract --file "$dir/hls.js-$version.tgz" --directory "$dir" --strip-components 2 package/dist/hls.min.js ||
            return
    fi
    export HLS_JS=$dir/hls.min.js
}

tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked || return
        slowest
    else
        cargo test --locked --lib --bins --tests
    fi
}

# Thousands of runs of the mesh, each from a seed of its own; a failure prints the seed.
simulation() {
    SIMULATION_SEEDS=${SIMULATION_SEEDS:-1200} cargo test --locked --profile simulation --test simulation -- \
        --nocapture --test-threads 1
}

slowest() {
    echo "the slowest tests, in seconds:"
    sed -n 's/.*<testcase name="\([^"]*\)" classname="\([^"]*\)".* time="\([0-9.]*\)".*/\3 \2 \1/p' target/nextest/default/junit.xml |
        sort -rn | sed -n 1,20p
}

kubernetes() {
    local said=target/k8s.log reason
    mkdir -p target
    tests/k8s.sh | tee "$said" || return
    while read -r reason; do skip "$reason"; done < <(sed -n 's/^SKIPPED: //p' "$said")
}

step "packages" packages
step "toolchain" toolchain
step "format" cargo fmt --all --check
step "scripts" shellcheck --external-sources tests/*.sh deploy/*.sh .ci/run
step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
step "hls.js" hls_js
step "compiling the tests" cargo test --locked --no-run --lib --bins --tests
install_deny
step "tests" tests
step "simulation" simulation
step "tests of HEVC" hevc
step "documentation tests" cargo test --locked --doc
step "kubernetes" kubernetes
step "dependencies" deny
