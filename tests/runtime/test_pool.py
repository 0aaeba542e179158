"""The pool: results in order, none of them kept once it is used."""

import gc
import weakref
from functools import partial

import numpy as np

from chestxray.runtime.pool import pool_map


def test_results_come_in_order_and_are_not_kept() -> None:
    with pool_map(partial(np.full, 3), range(40), workers=1, check=lambda: None) as results:
        seen = []
        for number, found in enumerate(results):
            assert found.tolist() == 3 * [number]
            seen.append(weakref.ref(found))
            del found
            gc.collect()
            assert sum(each() is not None for each in seen) <= 8  # those of a chunk
