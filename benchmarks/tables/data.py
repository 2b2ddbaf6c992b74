"""Tables that packages contain, so that the benchmark needs no download."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine


def _with_bins(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Replace columns of numbers by four categories with as many rows each."""
    binned = {name: pd.qcut(frame[name], 4, ["lowest", "low", "high", "highest"]).astype(str) for name in columns}
    return frame.assign(**binned)


def wine() -> tuple[pd.DataFrame, str]:
    bunch = load_wine(as_frame=True)
    kinds = bunch.target_names[bunch.target]
    return _with_bins(bunch.data, ["magnesium", "hue"]).assign(kind=kinds), "kind"


def cancer() -> tuple[pd.DataFrame, str]:
    bunch = load_breast_cancer(as_frame=True)
    kinds = bunch.target_names[bunch.target]
    return _with_bins(bunch.data, ["mean texture", "mean smoothness", "worst symmetry"]).assign(kind=kinds), "kind"


def diabetes() -> tuple[pd.DataFrame, str]:
    bunch = load_diabetes(as_frame=True, scaled=False)
    frame = bunch.data.assign(sex=np.where(bunch.data["sex"] == 1, "one", "two"))
    progress = np.where(bunch.target > bunch.target.median(), "fast", "slow")
    return _with_bins(frame, ["s4"]).assign(progress=progress), "progress"


def fair() -> tuple[pd.DataFrame, str]:
    """Return the survey of Fair (1978) in statsmodels: 6,366 women, numbers with few levels."""
    from statsmodels.datasets import fair

    frame = fair.load_pandas().data
    return frame.drop(columns="affairs").assign(affair=np.where(frame["affairs"] > 0, "yes", "no")), "affair"


def randhie() -> tuple[pd.DataFrame, str]:
    """Return the RAND health insurance experiment in statsmodels: 20,190 rows of counts, numbers and truth values."""
    from statsmodels.datasets import randhie

    frame = randhie.load_pandas().data
    return frame.assign(hlthg=np.where(frame["hlthg"] == 1, "good", "other")), "hlthg"


TABLES = {"wine": wine, "cancer": cancer, "diabetes": diabetes, "fair": fair, "randhie": randhie}


def divided(name: str, seed: int, most: int = 4000) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return training rows (at most `most`), test rows (a fifth, at most `most`), and the name of the label."""
    frame, label = TABLES[name]()
    frame = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    count = min(most, len(frame) // 5)
    return frame[count : count + most].reset_index(drop=True), frame[:count], label
