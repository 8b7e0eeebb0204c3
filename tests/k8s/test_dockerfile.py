"""The Dockerfiles without an engine: linted, pinned, every source there, and what the manifests run is in them."""

import ast
import fnmatch
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contract import Repository
from tests.conftest import MakeVersion
from tests.k8s.cluster import ROOT, containers, deployed, everything, overlay, pods
from tests.k8s.dockerfile import Step, instructions

NAMES = ("gateway", "training", "engine")
DOCKERFILES = {name: ROOT / "docker" / name / "Dockerfile" for name in NAMES}
SERVE_ENGINES = ROOT / "docker/engine/serve-engines"
BUILDKIT_ONLY = ("--mount=", "--chmod=", "--link", "<<")


def of(name: str, *kinds: str) -> list[Step]:
    return [step for step in instructions(DOCKERFILES[name]) if step.name in kinds]


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_finds_nothing(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILES[name]], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_there_and_in_the_context(name: str) -> None:
    """Nothing that .dockerignore leaves out, and nothing left in it that no Dockerfile copies."""
    patterns = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for step in of(name, "COPY"):
        if "--from=" not in step.text:
            for source in step.text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source.split("/")[0], pattern) for pattern in patterns), source


def test_the_context_holds_no_model_no_key_and_no_history() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copies = [step.text.split()[:-1] for name in NAMES for step in of(name, "COPY") if "--from=" not in step.text]

    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {s.split("/")[0] for copy in copies for s in copy}


@pytest.mark.parametrize("name", NAMES)
def test_bases_are_pinned_by_a_digest_that_is_given(name: str) -> None:
    arguments = {step.text for step in of(name, "ARG")}
    for step in of(name, "FROM"):
        image, _, digest = step.text.split()[0].partition("@")
        assert image[2:-1] in {argument.partition("=")[0] for argument in arguments}
        assert digest[2:-1] in arguments, "a digest has no default: none could be right for long"


@pytest.mark.parametrize("name", NAMES)
def test_they_run_as_the_user_of_the_manifests_and_say_how_they_are(name: str) -> None:
    users = {
        f"{pod['spec']['securityContext']['runAsUser']}:{pod['spec']['securityContext']['runAsGroup']}"
        for objects in everything()
        for _, pod in pods(objects)
        if any(f"/tidegate/{name}@" in each["image"] for each in containers(pod))
    }

    assert {step.text for step in of(name, "USER")} == users
    assert len(of(name, "HEALTHCHECK")) == 1
    assert len(of(name, "FROM")) == 2, "what builds isn't what runs"


@pytest.mark.parametrize("name", NAMES)
def test_any_builder_builds_them(name: str) -> None:
    text = DOCKERFILES[name].read_text()

    assert not [feature for feature in BUILDKIT_ONLY if feature in text]
    assert "# syntax=" not in text


def test_what_recipes_import_is_in_the_image_that_trains_them() -> None:
    """Whatever a recipe imports, in a function too: by the packages that the image's extras bring."""
    (run,) = (step.text for step in of("training", "RUN"))
    extras = re.search(r"'\.\[([a-z,-]+)\]'", run)
    assert extras
    there = brought_by(extras[1].split(","))
    packages = metadata.packages_distributions()
    own = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    for file in (ROOT / "training").rglob("*.py"):
        for name in imported(file) - sys.stdlib_module_names - own:
            assert {canonicalize_name(each) for each in packages.get(name, [])} & there, f"{file}: {name}"


def imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {n.split(".")[0] for n in whole | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


def brought_by(extras: list[str]) -> set[str]:
    """Names of the distributions that pip installs for these extras, as far as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def wanted() -> Iterator[Requirement]:
        left = list(extras)
        yield from map(Requirement, project["dependencies"])
        while left:
            for each in map(Requirement, project["optional-dependencies"][left.pop()]):
                if each.name == project["name"]:
                    left += each.extras
                else:
                    yield each

    found: set[str] = set()
    queue = list(wanted())
    while queue:
        each = queue.pop()
        name = canonicalize_name(each.name)
        if name in found or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            queue += map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:  # of NVIDIA's index
            continue
    return found


def test_the_gateway_listens_where_its_image_says() -> None:
    (ports,) = (step.text.split() for step in of("gateway", "EXPOSE"))
    (command,) = (json.loads(step.text) for step in of("gateway", "CMD"))
    gateway = deployed(overlay("cpu"), "gateway")["containers"][0]

    assert [str(port["containerPort"]) for port in gateway["ports"]] == ports
    assert gateway["command"] == command


def test_serve_engines_is_installed_where_the_manifests_find_it() -> None:
    used = {
        each["command"][0]
        for objects in everything()
        for _, pod in pods(objects)
        for each in containers(pod)
        if "/tidegate/engine@" in each["image"]
    }

    assert used == {"serve-engines"}
    assert "docker/engine/serve-engines /usr/local/bin/serve-engines" in {step.text for step in of("engine", "COPY")}
    assert os.access(SERVE_ENGINES, os.X_OK)


def test_what_is_built_beside_triton_is_what_was_built_before_it() -> None:
    """The same options in the init container's arguments and in the image's environment."""
    (build,) = deployed(overlay("gpu"), "triton")["initContainers"]
    environment = " ".join(step.text for step in of("engine", "ENV"))

    assert f'ENGINE_OPTIONS="{" ".join(build["args"])} --watch=10"' in environment


def serve_engines(*arguments: str, **environment: str) -> list[str]:
    variables = [f"{key}={value}" for key, value in environment.items()]
    return ["env", f"ENGINE_PYTHON={sys.executable}", *variables, str(SERVE_ENGINES), *arguments]


def test_engines_are_prepared_before_triton_although_one_version_is_refused(
    tmp_path: Path, make_version: MakeVersion
) -> None:
    source = tmp_path / "models"
    for version in (1, 2):
        make_version(source, version=version)
    (source / "tiny/2/golden.npz").write_bytes(b"not what was published")
    options = [f"--repository={source}", f"--cache={tmp_path / 'cache'}", f"--output={tmp_path / 'serve/models'}"]

    done = subprocess.run(
        serve_engines("once", *options), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "tiny version 2" in done.stderr
    assert Repository(tmp_path / "serve/models").versions("tiny") == [1]


def test_a_volume_without_models_is_one_sentence(tmp_path: Path) -> None:
    options = [f"--repository={tmp_path / 'none'}", f"--cache={tmp_path}", f"--output={tmp_path / 'serve/models'}"]

    done = subprocess.run(
        serve_engines("once", *options), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 1
    assert "doesn't exist: publish a model there first; nothing is prepared" in done.stderr.splitlines()[-1]


def test_versions_that_come_later_are_prepared_beside_the_command(tmp_path: Path, make_version: MakeVersion) -> None:
    source, served = tmp_path / "models", Repository(tmp_path / "serve/models")
    make_version(source)
    options = f"--repository={source} --cache={tmp_path / 'cache'} --output={served.root} --watch=0.2"
    process = subprocess.Popen(
        ["setsid", *serve_engines("beside", "sleep", "60", ENGINE_OPTIONS=options)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: served.versions("tiny") == [1])
        make_version(source, version=2)
        until(lambda: served.versions("tiny") == [1, 2])
        assert process.poll() is None
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def until(holds: object, timeout_s: float = 60) -> None:
    pause, tries = threading.Event(), int(timeout_s / 0.1)
    assert callable(holds)
    assert any(holds() or pause.wait(0.1) for _ in range(tries)), f"not within {timeout_s:g} s"
