"""
Explores every history of two workers and one editor, in which few things happen, and judges each step.

The rules, the ledger and the store in memory are the real ones. `calls` drives the ledger by hand: each request to the
store is an effect that `search` carries out, loses, delays, or answers too late. `oracle` holds the promises, and
`mutants` the behaviours of before, which have to be found.

What is left out, and why no history is missed by that:

- *An actor is its call and the replies so far.* It is made anew from them, so it needs no copy. A call that has lost a race
  and asks for what it asked for first is the same call begun now: the ledger keeps nothing of a race that it lost.
- *A reply is there at once, and only requests have an order.* What an actor does between two requests touches nothing that
  others see. A reply that comes after others went on, and one that comes after time went on, is a fault of its own.
- *Versions, fences and leases count by rank.* They are compared for equality and grow by one; nothing reads more of them.
- *Both workers are alike*, so a state and its mirror image are one.
- *Clocks count by order.* Rules compare an instant with due times and ends of leases. So the workers' clocks are equal or
  apart, and the editor's is before, at, between or after them, where something is due.
- *Fewer faults left allow less.* A state is explored again only if more faults are left than before.
- *Summaries are left out of a state.* No rule reads them, and each write is judged by what it has counted.
- *A late write that has lost its race is dropped*: versions only grow.

What is left out, and what may be missed by that:

- Time goes in steps of half a period. A lease is as long as a period, and a retry waits for half of one.
- What is late goes on when the lease ends that was given as it became late; a slow claim goes on just before.
- A worker has one batch at a time. A handler ends at once or later, but is renewed only once.
- The editor does not repeat a request that failed. Nothing is claimed ahead of its time, and nothing needs a permit.
- After the last occurrence and the lease of one that started then, nothing fails, and all that is due is done.
- Many faults and many occurrences at once: `depths_of` says which of them meet.
"""
