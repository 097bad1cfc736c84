"""The embedded network: pelure's own authorities and relays on 127.0.0.1, in worker processes, one a core.

* :mod:`.plan` — which nodes there are: keys, ports, the torrc lines that name the authorities;
* :mod:`.authority_node` — an authority together with its relay half (also ``pelure authority``);
* :mod:`.worker` — a process that runs some of the nodes;
* :mod:`.network` — starts and stops the workers (``pelure net up``);
* :mod:`.shared` — one network for all commands that say ``--network embedded``.
"""
