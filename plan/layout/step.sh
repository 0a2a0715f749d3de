#!/usr/bin/env bash
# step.sh NAME: applies one step in the current directory (a clean checkout). Build, fmt, test and commit are yours.
set -eu
L=plan/layout/steps
case "$1" in
  store)       bash $L/store.sh; python3 $L/store_mods.py; python3 plan/layout/repath.py $L/store.map store activities api bench dev $( [ -d service ] && echo service || echo runtime ) worker $(for d in stack load simulators tests; do [ -d $d ] && echo $d; done) ;;
  runtime)     bash $L/runtime.sh ;;
  dev_circles) python3 $L/dev_circles.py ;;
  simulators)  bash $L/simulators.sh; python3 plan/layout/repath.py $L/simulators.map dev bench simulators ;;
  stack)       bash $L/stack.sh ;;
  load)        bash $L/load.sh ;;
  tests)       bash $L/tests.sh ;;
  small)       python3 $L/small_circles.py ;;
  api)         python3 $L/api_circle.py ;;
  order)       python3 $L/order_circle.py ;;
  order_dirs)  bash $L/order_layout.sh ;;
  *) echo "no such step"; exit 1 ;;
esac
case "$1" in simulators|stack|load|tests) python3 $L/arrows.py "$1"; python3 $L/prune.py dev bench $(for d in simulators stack load; do [ -d $d ] && echo $d; done) ;; esac
python3 plan/layout/docpaths.py
python3 plan/layout/verify.py . | tail -3
