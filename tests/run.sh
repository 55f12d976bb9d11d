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

# The tool is not in Debian. Without it the run goes on, because building it takes minutes and can
# fail for reasons that are not ours.
deny() {
    if ! cargo deny --version; then
        echo "installing cargo-deny"
        if ! timeout 600 cargo install --debug --locked --quiet cargo-deny; then
            skip "dependencies are not checked: cargo-deny cannot be installed"
            return 0
        fi
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

tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked
    else
        cargo test --locked --lib --bins --tests
    fi
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
    FFMPEG=$ffmpeg cargo test --locked --test e2e_faithful hevc
}

# A browser plays HLS with hls.js, which is no part of Debian.
browser() {
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
    HLS_JS=$dir/hls.min.js cargo test --locked --test e2e_browser
}

# Thousands of runs of the mesh, each from a seed of its own; a failure prints the seed.
simulation() {
    SIMULATION_SEEDS=${SIMULATION_SEEDS:-1200} cargo test --locked --profile simulation --test mesh_simulation -- \
        --nocapture --test-threads 1
}

kubernetes() {
    local said=target/k8s.log reason
    mkdir -p target
    tests/k8s.sh | tee "$said" || return
    while read -r reason; do skip "$reason"; done < <(sed -n 's/^SKIPPED: //p' "$said")
}

step "packages" packages
step "toolchain" toolchain
step "format" cargo fmt --check
step "scripts" shellcheck --external-sources tests/*.sh deploy/*.sh .ci/run
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
step "dependencies" deny
step "kubernetes" kubernetes
step "documentation tests" cargo test --locked --doc
step "tests" tests
step "simulation" simulation
step "tests of HEVC" hevc
step "test in a browser" browser
