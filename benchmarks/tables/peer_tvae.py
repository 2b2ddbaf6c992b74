"""Synthetic rows of CTGAN's TVAE, in an environment of its own.

    python -m venv .venv-peers-tables
    .venv-peers-tables/bin/pip install torch==2.13.0 ctgan
    .venv-peers-tables/bin/python benchmarks/tables/peer_tvae.py TRAIN.csv ROWS SEED OUT.csv

Settings are the package's defaults; columns of text are its discrete columns.
"""

import sys

import pandas as pd
import torch
from ctgan import TVAE


def main() -> None:
    train, rows, seed, out = sys.argv[1:]
    frame = pd.read_csv(train)
    torch.manual_seed(int(seed))
    model = TVAE()
    model.set_random_state(int(seed))
    model.fit(frame, [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])])
    model.sample(int(rows)).to_csv(out, index=False)


if __name__ == "__main__":
    main()
