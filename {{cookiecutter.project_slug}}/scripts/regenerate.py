"""Other answers, or the newest template, for this project; edits stay: `python scripts/regenerate.py NAME=ANSWER ...`.

The template itself merges (hooks/regenerate.py there): cookiecutter runs it, and its hook finds the request made here.
"""

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0], allow_abbrev=False)
parser.add_argument("answers", nargs="*", metavar="NAME=ANSWER", help="for example lr_scheduler_type=step")
parser.add_argument("--update", action="store_true", help="bring the newest template")
parser.add_argument("--template", default="", metavar="PLACE", help="where the template is now: a path or an address")
given, unknown = parser.parse_known_args()
for word in [*unknown, *given.answers]:
    if not word.partition("=")[0].isidentifier() or "=" not in word:
        sys.exit(f"error: {word!r} is no answer; write NAME=ANSWER, as lr_scheduler_type=step")
changes = dict(word.split("=", 1) for word in given.answers)
if (PROJECT / ".cruft.json").exists():  # it would still have the old answers
    words = f" --variables-to-update {shlex.quote(json.dumps(changes))}" if changes else ""
    sys.exit(f"error: cruft keeps the answers of this project; commit, then: cruft update{words}")
place = given.template
with suppress(OSError, ValueError, KeyError):
    place = place or json.loads((PROJECT / ".cookiecutter.lock").read_text("utf-8"))["template"]
if not place:
    sys.exit("error: it is not known where the template is; give --template with its path or address")
if not shutil.which("git"):
    sys.exit("error: git is not installed; merging needs it")
command = [sys.executable, "-m", "cookiecutter"] if importlib.util.find_spec("cookiecutter") else ["cookiecutter"]
if not shutil.which(command[0]):
    sys.exit("error: cookiecutter is not installed; python -m pip install cookiecutter")
place = str(Path(place).absolute()) if Path(place).exists() else place
signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends cookiecutter, or waits while its hook changes files
with tempfile.TemporaryDirectory() as folder:
    request, reply, settings = (Path(folder, name) for name in ("request.json", "reply.json", "settings.yaml"))
    asked = {"project": str(PROJECT), "place": place, "changes": changes, "update": given.update}
    request.write_text(json.dumps(asked), "utf-8")
    settings.write_text(json.dumps({"cookiecutters_dir": folder, "replay_dir": folder}), "utf-8")  # JSON is YAML
    variables = {"TORCH_TEMPLATE_REQUEST": str(request), "TORCH_TEMPLATE_QUIET": "1", "PWD": folder}
    command += [place, "--no-input", "-o", str(Path(folder, "out")), "--config-file", str(settings)]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    said = json.loads(reply.read_text("utf-8")) if reply.exists() else None
if said:
    print(said["text"], file=sys.stderr if said["text"].startswith("error: ") else sys.stdout)
    sys.exit(said["status"])
if not done.returncode:
    sys.exit(f"error: the template at {place} is older than this script and cannot merge; give --template a newer one")
lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["stopped"]
told = [line for line in lines if line.startswith(("fatal: ", "error: ", "A valid repository"))] or lines[-1:]
moved = "if it has moved, give --template PATH_OR_ADDRESS"
sys.exit(f"error: the template cannot be had from {place} ({told[0]}); {moved}")
