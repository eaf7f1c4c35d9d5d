"""`make bench`: all benchmarks, or those named: `make bench ARGS="startup reports"`."""

import sys

from bench import (
    citations,
    dialog_load,
    index,
    models,
    refinement,
    refusals,
    reports,
    retrieval_quality,
    rows,
    server_quality,
    stacks,
    startup,
)

BENCHES = {
    "startup": startup.main,
    "retrieval_quality": retrieval_quality.main,
    "refinement": refinement.main,
    "citations": citations.main,
    "refusals": refusals.main,
    "reports": reports.main,
    "server_quality": server_quality.main,
    "rows": rows.main,
    "index": index.main,
    "stacks": stacks.main,
    "models": models.main,
    "dialog_load": dialog_load.main,
}

if __name__ == "__main__":
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        raise SystemExit(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    reached = [BENCHES[name]() for name in names]
    raise SystemExit(0 if all(reached) else 1)
