"""What the README shows is run as it stands there."""

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


def test_every_picture_and_page_that_it_names_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_commands_shown_have_flags_that_exist(command):
    for program in ("sweeps/run_grid.py", "sweeps/report.py", "gan_core"):
        words = [ROOT / program] if program.endswith(".py") else ["-m", program]
        known = command(*words, "--help").stdout
        for line in re.findall(rf"^python (?:-m )?{re.escape(program)} (.*)$", README, re.MULTILINE):
            for flag in re.findall(r"--[\w-]+", line.split("#")[0]):
                assert re.search(rf"{flag}\b", known), f"{program} has no {flag}"
