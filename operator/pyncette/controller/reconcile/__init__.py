"""
The loops that make the backend and the cluster equal to the resources: queue, tasks, pools, backends, sweep.

They import the other rooms of the controller, the mirror and the ledger. They read through `cluster` and write through the ledger, and leave what a status says to `status`.
"""
