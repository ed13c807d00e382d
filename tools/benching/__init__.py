"""The bench: what ioflt costs, beside other file systems in the same run. `tools/bench.py` is its command.

- `results`, `targets`: figures, ratios, what they should be; no input or output
- `filesystem`, `places`, `luks`: what is measured; `processes`: its processor time and memory
- `work`: what a measurement is; `transfers` (fio), `names`, `vms`: the rows; `rows` has all of them
- `command`: arguments and signals of what measures
- `rounds`: A B C A B C …; `report`: the table, the JSON, the line of the history
"""
