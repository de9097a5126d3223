"""How fast Keyturn is, measured so that a stranger with another machine finds the same ratios.

* What is compared is CPU time per operation, read from the kernel for each process, as a ratio to
  a baseline that was measured in the same round on the same machine. Wall time and latency stand
  beside it and decide nothing: on shared cores they move by a factor of two.
* Every answer is checked while it is counted, and what the database holds is counted afterwards.
  One wrong answer fails the run: a fast error is no result.
* No absolute figure is printed without the circumstances that it was measured in.
* Nothing is left: no process, no folder. Nothing but loopback and a socket is used.

The map::

    __main__       names and options; the JSON file; the gate
    suite/         one module a benchmark; its __init__ lists them
    baselines/     what we are compared with; tested to answer as documented
    load           the load generator: closed loop, and open loop at a fixed rate
    processes      starts and stops servers; their CPU time and memory
    report         interleaved rounds, ratios, tables, bars
    circumstances  the machine, the versions, the settings
    bars.toml      the goals that --check holds a run to
"""
