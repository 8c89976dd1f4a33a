"""What the README shows is run as it stands there. tests/test_docs.py holds its commands and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_python_trains_and_plots(command, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = command("-c", code, OMP_NUM_THREADS="1")  # two threads are far slower on a busy machine
    assert (done.returncode, done.stderr) == (0, "")
    pictures = set(re.findall(r'"(\w+\.png)"', code))
    assert len(pictures) >= 2
    assert {path.name for path in tmp_path.iterdir()} == pictures


def test_ci_runs_its_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    (line,) = re.findall(r"<!-- test command -->\n+```bash\n(.*)\n```", README)
    assert line.startswith("pip install")
    assert line.endswith("./check")
    assert "test command" in script
