"""An example or two for every command, as they stand at the end of its `--help`."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "describe": (
        "vlm-heads describe sample:kitchen --with vhr --compare",
        "vlm-heads describe photo.jpg --model llava-hf/llava-1.5-7b-hf --with vhr:gain=1.5 --with vcd --json",
    ),
    "askback": (
        "vlm-heads askback captions.jsonl --images scenes/images --out askback.jsonl",
        "vlm-heads askback captions.jsonl --images val2014 --model llava-hf/llava-1.5-7b-hf --with askback:by=both",
        "vlm-heads askback captions.jsonl --images val2014 --endpoint http://127.0.0.1:8000/v1 --out askback.jsonl",
    ),
    "score": (
        "vlm-heads score sample:kitchen sample:street --out profile",
        "vlm-heads score --scorer allpath-format --about questions --pictures 64 --out profile",
        "vlm-heads score --scorer vhd --scorer image-mass --scorer logits --pictures 64 --out scorers",
    ),
    "compare": (
        "vlm-heads compare runs/chair/plain runs/chair/mitigated --out report",
        "vlm-heads compare runs/vhr runs/vcd runs/askback --budget 64 --out frontier",
        "vlm-heads compare greedy.jsonl pai.jsonl vcd.jsonl --truth coco/annotations --pipeline chair-opera",
    ),
    "doctor": ("vlm-heads doctor mini --cost", "vlm-heads doctor llava-hf/llava-1.5-7b-hf"),
    "methods": ("vlm-heads methods", "vlm-heads methods vhr"),
    "calibrate": (
        "vlm-heads calibrate mini --out reinforced",
        "vlm-heads calibrate mini --scorer allpath-format --out reinforced",
    ),
    "tune": (
        "vlm-heads tune mini --out tuned",
        "vlm-heads tune llava-hf/llava-1.5-7b-hf --data coco --try m3id --try 'vhr vcd' --out tuned",
    ),
    "fold": ("vlm-heads fold mini --profile reinforced --out mini-folded --verify",),
    "demo": ("vlm-heads demo", "vlm-heads demo --model llava-hf/llava-1.5-7b-hf --device cuda"),
    "serve": (
        "vlm-heads serve mini --with vhr:gain=1.5",
        "vlm-heads serve llava-hf/llava-1.5-7b-hf --device cuda --host 0.0.0.0 --port 8000",
    ),
    "eval": ("vlm-heads eval chair --with vhr --paired",),
    "eval chair": (
        "vlm-heads eval chair --with vhr --paired --curve --controls",
        "vlm-heads eval chair --model llava-hf/llava-1.5-7b-hf --data coco --protocol opera-500 --with vhr --paired",
    ),
    "eval pope": (
        "vlm-heads eval pope --with vcd --controls",
        "vlm-heads eval pope --model llava-hf/llava-1.5-7b-hf --data coco --protocol pope-500",
        "vlm-heads eval pope --endpoint http://127.0.0.1:8000/v1 --served-model llava --data coco --concurrency 64",
    ),
    "eval mme": (
        "vlm-heads eval mme --model llava-hf/llava-1.5-7b-hf --data MME_Benchmark_release_version --with vhr --paired",
        "vlm-heads eval mme --data MME_Benchmark_release_version --part hallucination",
    ),
    "eval hallusion": ("vlm-heads eval hallusion --data HallusionBench --model llava-hf/llava-1.5-7b-hf",),
    "eval amber": ("vlm-heads eval amber --data AMBER --task generative --with vhr --paired",),
    "eval mmvp": ("vlm-heads eval mmvp --data MMVP --labels mended",),
    "eval mcq-pope": ("vlm-heads eval mcq-pope --data coco --limit 100 --with vhr --paired",),
    "judge": ("vlm-heads judge chair captions.jsonl --truth coco",),
    "judge chair": ("vlm-heads judge chair captions.jsonl --truth coco/annotations",),
    "judge pope": (
        "vlm-heads judge pope answers.jsonl --questions coco_pope_random.json",
        "vlm-heads judge pope answers.jsonl -q coco_pope_random.json --labels repope --labels-from RePOPE",
    ),
    "judge mme": (
        "vlm-heads judge mme eval_tool/LaVIN",
        "vlm-heads judge mme llava-v1.5-13b.jsonl --questions eval_tool/LaVIN",
    ),
    "judge hallusion": (
        "vlm-heads judge hallusion HallusionBench_result.json --questions HallusionBench.json --reader substring",
    ),
    "judge amber": ("vlm-heads judge amber responses.json --data AMBER --similarity similarity.json",),
    "judge mmvp": ("vlm-heads judge mmvp answers.jsonl --questions Questions.csv",),
    "judge mcq-pope": ("vlm-heads judge mcq-pope answers.jsonl --questions coco_mcq_random.jsonl",),
    "bench": ("vlm-heads bench",),
    "bench kernel": ("vlm-heads bench kernel --shape 7B --dtype bfloat16 --device cuda",),
    "bench generate": ("vlm-heads bench generate --with vhr --with vcd --tokens 32",),
    "bench captions": ("vlm-heads bench captions --with askback:by=both --with m3id --batch 16",),
    "bench cost": ("vlm-heads bench cost --model mini",),
    "bench gpu": ("vlm-heads bench gpu --write kernels/RESULTS.md",),
    "bench client": ("vlm-heads bench client --requests 1000 --concurrency 64",),
    "bench judge": (
        "vlm-heads bench judge --captions 500",
        "vlm-heads bench judge --pipeline chair-opera --file captions.jsonl",
    ),
    "world": ("vlm-heads world export scenes --split held-out --images 100",),
    "world export": ("vlm-heads world export scenes --split held-out --images 100",),
    "world train": ("vlm-heads world train my-mini --seed 1",),
    "world train-small": ("vlm-heads world train-small my-small --seed 1",),
    "world build-small": ("vlm-heads world build-small small-checkpoint --weights my-small",),
    "study": ("vlm-heads study held-out --out report",),
    "study held-out": ("vlm-heads study held-out --with vhr --captions 100 --questioned 30 --out report",),
    "study route": ("vlm-heads study route --model mini --images 200 --write docs/route_gain.md",),
    "study route-heads": ("vlm-heads study route-heads --model mini --write docs/route_gain.md",),
    "study branches": ("vlm-heads study branches --model mini --images 100 --write docs/effect.md",),
    "study opening": ("vlm-heads study opening --model mini --write app/vlm_app/assets/openings.json",),
    "study grounding": ("vlm-heads study grounding --model mini --captions 100 --out runs/grounding",),
    "study findings": (
        "vlm-heads study findings --images 100 --out runs/findings",
        "vlm-heads study findings --model mini --write docs/findings.md",
    ),
    "study findings-page": ("vlm-heads study findings-page docs/findings.md",),
    "study heads": (
        "vlm-heads study heads --images 8 --out runs/heads",
        "vlm-heads study heads --model small --write docs/effect.md",
    ),
    "study league": (
        "vlm-heads study league --scale 0.1 --out runs/league",
        "vlm-heads study league --methods askback,m3id --out runs/league",
    ),
    "study chart": ("vlm-heads study chart docs/results.md app/vlm_app/assets/league.json",),
    "study pages": (
        "vlm-heads study pages runs/league --results docs/results.md",
        "vlm-heads study pages runs/league runs/league-1 --effect docs/effect.md --field docs/field.md",
    ),
}


def epilog(words: str) -> str | None:
    """Return what stands at the end of a command's help, a line an example; None where there is none.

    Args:
        words: the command, as `bench kernel`.
    """
    lines = EXAMPLES.get(words, ())
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n\n".join([title, *lines]) if lines else None
