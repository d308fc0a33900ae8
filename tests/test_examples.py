import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_plans_are_scored_without_torch():
    program = f"import sys, runpy; sys.modules['torch'] = None; runpy.run_path({str(EXAMPLES / 'score_plans.py')!r})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "constant velocity: EPDMS" in answer.stdout and "standing still: EPDMS" in answer.stdout
