"""Terraform for tests: the program, a folder with the AWS provider, and a copy of our modules to work in."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["SOURCE", "Terraform", "copied", "program"]

SOURCE = Path(__file__).parents[2] / "terraform"
_SECONDS_MAX = 600
_KEPT = ("PATH", "HOME", "TMPDIR", "NO_PROXY", "no_proxy")


@dataclass(frozen=True, slots=True)
class Terraform:
    """The program, run in a copy of our folder ``root`` with nothing of this process's environment that it would heed.

    plugins : folder of providers, as ``terraform providers mirror`` makes one
    """

    binary: str
    root: Path
    plugins: Path | None = None

    def run(self, folder: str, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        """Return what it printed. Fails the test, with its words, when it ends with another code than ``ok``."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment = kept | {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "AWS_EC2_METADATA_DISABLED": "true"}
        done = subprocess.run(
            [self.binary, *arguments], cwd=self.root / folder, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS_MAX,
        )  # fmt: skip
        assert done.returncode in ok, f"terraform {' '.join(arguments)} in {folder}:\n{done.stdout[-6000:]}"
        return done.stdout

    def init(self, folder: str) -> None:
        """Install what a folder needs, without its backend."""
        self.run(folder, "init", "-backend=false", "-input=false", "-no-color", f"-plugin-dir={self.plugins}")


def program() -> str:
    """Return the path of Terraform. Skips the test where there is none."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip("NOT TESTED: terraform is not installed")
    return found


def copied(to: Path) -> Terraform:
    """Return Terraform in a copy of our folder. Skips the test where the AWS provider is not at hand."""
    binary, plugins = program(), os.environ.get("TF_PLUGIN_DIR", "")
    if not plugins:
        pytest.skip("NOT TESTED: set TF_PLUGIN_DIR to a folder with hashicorp/aws (`terraform providers mirror DIR`)")
    if not list(Path(plugins).rglob("terraform-provider-aws*")):
        pytest.skip(f"NOT TESTED: there is no hashicorp/aws provider under TF_PLUGIN_DIR={plugins}")
    root = to / "terraform"
    shutil.copytree(SOURCE, root, ignore=shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*"))
    return Terraform(binary, root, Path(plugins))
