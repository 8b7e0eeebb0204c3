#!/bin/sh
# Sets up everything the Makefile's targets need, and does nothing where that is there already.
#
#   Debian packages   prometheus, curl, dataset-fashion-mnist; wrk and nghttp2-client (h2load) for `make bench`;
#                     prometheus-alertmanager, docker-registry and npm for tests;
#                     python3.X-venv and libpython3.X where Python came without ensurepip or its shared library
#                                                                                            (only these need root)
#   .venv             this project and its tools
#   .venv-triton      NVIDIA's Triton server with ONNX Runtime, apart because its stub needs numpy < 2
#   .venv-kserve      KServe's Python client, which a test asks the gateway with; only for `./setup.sh test`,
#                     apart because it needs older versions than this project
#   .venv-s3          moto's server, which tests copy models to as to S3; only for `./setup.sh test`,
#                     apart for the same reason
#   .venv-kubectl     kubectl, which tests build the manifests with; only for `./setup.sh test`, and only where the one
#                     on PATH is missing or too old to build them
#
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -eu
cd "$(dirname "$0")"

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

require_platform() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
        fail "Triton's wheel runs on Linux x86-64 only, and this is $(uname -s) $(uname -m)."
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
    [ -n "$glibc" ] && [ "$(printf '2.35\n%s\n' "$glibc" | sort -V | head -n 1)" = 2.35 ] ||
        fail "Triton's wheel needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04), and this is ${glibc:-no glibc}."
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3 python3.12}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            python=$candidate
            return
        fi
    done
    fail "Python 3.11 or 3.12 is missing; install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or set PYTHON."
}

python_package() { "$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'; }

# Triton runs Python models in a process that is linked with Python's shared library.
has_python_library() {
    "$python" -c 'import os, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
sys.exit(not os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name)))' ||
        ldconfig -p 2>/dev/null | grep -q "lib$(python_package).so.1.0 "
}

install_debian_packages() {
    wanted=""
    command -v prometheus >/dev/null && command -v promtool >/dev/null || wanted="$wanted prometheus"
    [ "${1:-}" != test ] || command -v amtool >/dev/null || wanted="$wanted prometheus-alertmanager"
    [ "${1:-}" != test ] || command -v docker-registry >/dev/null || wanted="$wanted docker-registry"
    [ "${1:-}" != test ] || command -v npm >/dev/null || wanted="$wanted npm"
    command -v curl >/dev/null || wanted="$wanted curl"
    command -v wrk >/dev/null || wanted="$wanted wrk"
    command -v h2load >/dev/null || wanted="$wanted nghttp2-client"
    [ -d /usr/share/datasets/fashion-mnist ] || wanted="$wanted dataset-fashion-mnist"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        wanted="$wanted $(python_package)-venv"
    has_python_library || wanted="$wanted lib$(python_package)"
    [ -n "$wanted" ] || return 0
    command -v apt-get >/dev/null ||
        fail "missing:$wanted; they are Debian packages, and this system has no apt-get."
    [ "$(id -u)" = 0 ] ||
        fail "missing Debian packages; run as root once: apt-get update && apt-get install --no-install-recommends$wanted"
    say "installing the Debian packages$wanted"
    # Tidegate starts its own Prometheus when it needs one: the packaged service is neither started nor enabled.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of package names
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $wanted; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        fail "apt-get could not install$wanted; its whole output is in $log."
    fi
    rm -f "$log"
    if [ -d /run/systemd/system ]; then systemctl disable prometheus.service >/dev/null 2>&1 || true; fi
}

# environment DIR STAMP: make a virtual environment unless it carries this stamp; true when it was made.
environment() {
    [ "$(cat "$1/.stamp" 2>/dev/null)" != "$2" ] || return 1
    [ -x "$1/bin/python" ] || "$python" -m venv "$1" || fail "$python can't make a virtual environment in $1."
}

pip_install() {
    venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "pip could not install into $venv; the lines above say why."
}

install_project() {
    stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
    environment .venv "$stamp" || return 0
    say "installing this project with its training, serving and test tools into .venv (about two minutes)"
    pip_install .venv --constraint constraints.txt --editable '.[dev]'
    echo "$stamp" >.venv/.stamp
}

install_triton() {
    stamp="nvidia-pytriton 0.7.0, numpy 1.26.4, onnxruntime 1.32.0"
    environment .venv-triton "$stamp" || return 0
    say "installing NVIDIA's Triton server and ONNX Runtime into .venv-triton"
    pip_install .venv-triton numpy==1.26.4 onnxruntime==1.32.0
    pip_install .venv-triton --no-deps nvidia-pytriton==0.7.0
    echo "$stamp" >.venv-triton/.stamp
}

# install_apart DIR REQUIREMENTS WHAT: what can't stand beside this project, in an environment of its own.
install_apart() {
    stamp=$(sha256sum <"$2" | cut -d' ' -f1)
    environment "$1" "$stamp" || return 0
    say "installing $3 into $1 (about 15 seconds)"
    # Python compiles what is used, which is less than what is installed.
    pip_install "$1" --no-deps --no-compile --requirement "$2"
    echo "$stamp" >"$1/.stamp"
}

builds_manifests() { kubectl kustomize k8s/overlays/cpu >/dev/null 2>&1; }

install_foreign() {
    requirements=tests/integration/foreign-requirements.txt
    stamp=$(cat "$requirements" .venv/.stamp | sha256sum | cut -d' ' -f1)
    [ "$(cat .venv/.foreign 2>/dev/null)" != "$stamp" ] || return 0
    say "installing models of other people into .venv, to import them (a few seconds)"
    pip_install .venv --no-deps --no-compile --requirement "$requirements"
    echo "$stamp" >.venv/.foreign
}

fetch_data() {
    stamp=$(cat training/dataset/*.py | sha256sum | cut -d' ' -f1)
    [ "$(cat .venv/.data 2>/dev/null)" != "$stamp" ] || return 0
    say "fetching the data sets of the recipes, those that aren't here yet"
    .venv/bin/tidegate data --fetch >/dev/null || fail "a data set could not be fetched; the line above says why."
    echo "$stamp" >.venv/.data
}

case ${1:-} in
"" | test) ;;
*) fail "expected no argument or 'test', got '$1'." ;;
esac
require_platform
find_python
install_debian_packages "${1:-}"
install_project
install_triton
if [ "${1:-}" = test ]; then
    install_apart .venv-kserve tests/integration/kserve-requirements.txt "KServe's Python client"
    install_apart .venv-s3 tests/k8s/s3-requirements.txt "moto's S3 server"
    builds_manifests || install_apart .venv-kubectl tests/k8s/kubectl-requirements.txt kubectl
    install_foreign
    fetch_data
fi
