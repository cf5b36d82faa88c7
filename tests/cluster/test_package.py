"""What is sent to a cluster: all that the job needs, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from clray import files
from clray.cluster.package import pack
from clray.errors import BadSpec, UnknownName

JOB = """\
name: mine
benchmark: split-digits
methods:
  lab: {method: {name: my_lab.l2}, space: spaces/odd.yaml}
  er: {}
"""
METHOD = """\
from clray.methods.finetune import Config, Finetune as _Finetune
from my_lab.losses import scale
import numpy, shared_code

class Learner(_Finetune):
    pass
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as researchers have them: modules, secrets, results, data, an environment."""
    for path, content in {
        "my_lab/__init__.py": "",
        "my_lab/l2.py": METHOD,
        "my_lab/losses.py": "scale = 1",
        "my_lab/defaults.yaml": "strength: 1",
        "my_lab/ignored.yaml": "a: 1",
        "my_lab/.env": "KEY=secret",
        "my_lab/aws_credentials.json": "{}",
        "my_lab/train.bin": "0" * 1000,
        "my_lab/data/images.txt": "x",
        "my_lab/venv/pyvenv.cfg": "",
        "my_lab/venv/lib.py": "",
        "my_lab/__pycache__/l2.pyc": "",
        "shared_code.py": "import os",
        "unrelated.py": "",
        "results/jobs/mine/final.json": "{}",
        "spaces/odd.yaml": "optimizer: {lr: {range: [0.01, 0.1], log: true}}",
        "search_spaces/er.yaml": "optimizer: {lr: 0.1}",
        "job.yaml": JOB,
        ".gitignore": "ignored.yaml\n",
        "extra/notes.csv": "1,2",
        "extra/deploy.pem": "-----",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_only_what_the_job_needs(lab: Path) -> None:
    package = pack(files.load_job("job.yaml"))
    yours = {path for path in package.files if not path.startswith("clray/")}
    assert yours == {
        "job.yaml",
        "my_lab/__init__.py",
        "my_lab/l2.py",
        "my_lab/losses.py",
        "my_lab/defaults.yaml",
        "shared_code.py",
        "search_spaces/odd.yaml",
        "search_spaces/er.yaml",
    }
    assert package.modules == ("my_lab", "shared_code")
    job = yaml.safe_load(package.files["job.yaml"])
    assert job["methods"]["lab"]["space"] == "odd"
    assert {"clray/__main__.py", "clray/_files/search_spaces/er.yaml"} <= set(package.files)
    assert not any("__pycache__" in path for path in package.files)


def test_it_runs_where_it_is_unpacked(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("head")
    zipfile.ZipFile(io.BytesIO(pack(files.load_job("job.yaml")).zipped())).extractall(there)
    code = "import clray, my_lab.l2; print(clray.__file__); print(clray.files.load_job('job.yaml'))"
    code = code.replace("import clray,", "import clray, clray.files,")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(there))


def test_the_same_files_give_the_same_bytes(lab: Path) -> None:
    one, other = (pack(files.load_job("job.yaml")) for _ in range(2))
    assert (one.zipped(), one.digest) == (other.zipped(), other.digest)
    (lab / "my_lab/losses.py").write_text("scale = 2")
    assert pack(files.load_job("job.yaml")).digest != one.digest


def test_what_is_included_by_name(lab: Path) -> None:
    job = files.load_job("job.yaml")
    assert "extra/notes.csv" in pack(job, ["extra/notes.csv"]).files
    for given, accepted in {
        "extra": "named like a secret",
        "missing": "exists",
        "/etc/hostname": "below the one you stand in",
    }.items():
        with pytest.raises(BadSpec, match=accepted):
            pack(job, [given])


def test_too_much_is_refused_with_the_largest(lab: Path) -> None:
    (lab / "extra/deploy.pem").unlink()
    (lab / "extra/big.csv").write_bytes(b"0" * 30_000_000)
    with pytest.raises(BadSpec, match=r"30\.\d MB|31\.\d MB.*the largest extra/big.csv 30\.0 MB"):
        pack(files.load_job("job.yaml"), ["extra"])


def test_a_module_that_there_is_not(lab: Path) -> None:
    (lab / "job.yaml").write_text(JOB.replace("my_lab.l2", "my_lob.l2"))
    with pytest.raises(UnknownName, match="my_lob"):
        pack(files.load_job("job.yaml"))
