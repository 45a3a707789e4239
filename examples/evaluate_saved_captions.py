"""Score captions that somebody's model wrote, with CHAIR; no model runs and torch is not imported.

python examples/evaluate_saved_captions.py captions.jsonl truth.json
"""

import sys

from vlm_evals.judge import judge

captions, truth = sys.argv[1:]
found = judge("chair", captions, truth=truth)
for name in ("chair_s", "chair_i", "recall"):
    print(f"{name}: {100 * found[name]:.1f} %")
for one in found["most_invented"][:3]:
    print(f"invented: {one['object']}, in {one['captions']} captions")
