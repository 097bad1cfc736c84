"""A process that searches for a proof of work (proposal 327 section 3.2).

``python -m pelure.tor.client.pow_worker`` reads one line of JSON from standard input, the puzzle and the
nonce to begin with; prints the body of the extension PROOF_OF_WORK in hex; gives up when standard input ends.
"""

from __future__ import annotations

import json
import select
import sys

from pelure.tor.onion.pow import Puzzle


def order(puzzle: Puzzle, nonce: bytes) -> bytes:
    """The line that tells a worker what to do."""
    fields = (puzzle.blinded_key.hex(), puzzle.seed.hex(), puzzle.effort, nonce.hex())
    return json.dumps(fields).encode() + b"\n"


def main() -> None:
    """Do what standard input says."""
    blinded_key, seed, effort, nonce = json.loads(sys.stdin.readline())
    puzzle = Puzzle(bytes.fromhex(blinded_key), bytes.fromhex(seed), effort)
    proof = puzzle.solve(bytes.fromhex(nonce), _is_wanted)
    if proof is not None:
        print(proof.extension().body.hex())


def _is_wanted() -> bool:
    return not select.select([sys.stdin], [], [], 0)[0]


if __name__ == "__main__":
    main()
